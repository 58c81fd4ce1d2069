// One delivery, whole: its state in words, what was sent, what came back, and the ways to send it again.
import { ask, get, poll } from './http.js';
import { block, button, copyButton, h, icon, put, say } from './dom.js';
import { count, failure, ms, outcome, time } from './words.js';
import { UUID, href } from './address.js';
import { permalink } from './embed.js';
import { curl, indented } from './curl.js';

const EVERY_MS = 3000;
export const TRIGGERS = { event: 'First attempt', retry: 'Retry', test: 'Test', resend: 'Resent' };

/** Each state of a delivery as an icon, a word, and what makes the word a sentence. */
export const STATES = {
	pending: ['none', 'Waiting', ' for its next attempt'],
	delivered: ['success', 'Delivered', ''],
	exhausted: ['failed', 'Failed', ': no attempt is left'],
	cancelled: ['failed', 'Cancelled', ' when the webhook was switched off'],
	disabled: ['failed', 'Not sent', ': we had disabled the webhook'],
	unrecordable: ['failed', 'Unknown', ': the result could not be stored'],
};
const RETRYING = ['warning', 'Retrying', ' after a failed attempt'];

/** The state of a row of the list, or of one whole delivery, as an entry of `STATES`. */
export function stateOf({ state, last_status: status, attempts }) {
	if (state === 'pending' && (status ?? attempts?.[0]?.status) === 'failed') return RETRYING;
	return STATES[state] ?? ['none', state, ''];
}

const copied = (label, id) => [h('code', id), ' ', copyButton(() => id, `Copy ${label}`)];

/** A button that says what it copies. */
const copier = (label, text) => Object.assign(copyButton(text, label), { textContent: label });

export const lines = (headers) => Object.entries(headers).map((header) => header.join(': ')).join('\n');

/** Shows a delivery in `place`, and what becomes of it until `signal` ends. An event `stale` has it looked at again. */
export function story(place, delivery, { id, path, webhook }, signal) {
	const state = h('span'), next = h('span'), attempts = h('ol.attempts'), title = h('h3'), sent = h('div'), known = new Set();
	let settled = false, last;
	const missing = () => put(place, h('p.error', 'This delivery does not exist, or is no longer kept.'));
	// It comes from the address, which may be anybody's.
	if (!UUID.test(delivery)) return missing();

	const refresh = poll(place, EVERY_MS, signal, async () => {
		if (settled) return;
		const one = await get(`${path}/deliveries/${delivery}`, signal).catch((problem) => {
			if (problem.status === 404) return null;
			throw problem;
		});
		settled = one?.state !== 'pending';
		if (!one) return missing();
		if (!state.isConnected) draw(one);
		update(one);
	});

	const again = () => {
		settled = false;
		refresh();
	};
	place.addEventListener('stale', again, { signal });

	function draw({ event_id: event, event_type: type, created_at: created, payload: text, attempts: [newest] }) {
		const address = href(id, `logs/${delivery}`);
		const facts = {
			State: state, 'Next attempt': next, 'Event type': type && h('code', type), Event: event && copied('event ID', event),
			Delivery: copied('delivery ID', delivery), Created: time(created),
		};
		put(place, h('dl', Object.entries(facts).map(([name, value]) => value && [h('dt', name), h('dd', value)])),
			h('.actions.start', text !== null && [button('Resend', async () => {
				await ask('POST', `${path}/deliveries/${delivery}/resend`);
				say('It is being sent again.');
				again();
			}, '.small'), copier('Copy as curl', () => curl(webhook().url, last.request_headers, text))],
			copier('Copy link', () => permalink(address.slice(1))), place.closest('details') && h('a', { href: address }, 'Open alone')),
			text !== null ? payload(text)
				: h('p.muted', newest?.trigger === 'test' ? 'The payload of a test is not kept.' : 'The event is no longer kept, and its payload with it.'),
			sent, title, attempts);
	}

	function update(one) {
		const [kind, word, rest] = stateOf(one), fresh = one.attempts.filter((row) => !known.has(row.id));
		last = one;
		put(state, outcome(kind, word), rest);
		put(next, one.state !== 'pending' ? 'None' : !webhook().active ? 'None: the webhook is inactive'
			: new Date(one.next_attempt_at) > Date.now() ? time(one.next_attempt_at) : 'Now');
		put(title, count(one.attempts.length, 'attempt'));
		if (!fresh.length) return;
		for (const row of fresh) known.add(row.id);
		attempts.prepend(...fresh.map((row) => h('li', attempt(row))));
		put(sent, one.request_headers && [block('Headers sent', lines(one.request_headers)),
			h('p.hint', 'Those of the last attempt, without Host and without signatures that cannot be made again.')]);
	}
}

/** It is read indented, and copied as it was sent. */
function payload(text) {
	const own = block('Payload', text), pre = own.lastChild;
	let raw = true;
	const show = () => {
		raw = !raw;
		put(pre, raw ? text : indented(text));
		put(form, raw ? 'Pretty' : 'Raw');
	};
	const form = button('', show, '.small');
	show();
	own.firstChild.lastChild.before(form);
	return own;
}

/** One attempt: how it ended, why, and what the receiver answered. */
export function attempt(row) {
	const { http_status: status, response_snippet: text, response_headers: headers = {} } = row, why = failure(row);
	return [h('.facts', outcome(row.status), h('b', `Attempt ${row.attempt}`), h('span', TRIGGERS[row.trigger]),
		h('span', status ? `HTTP ${status}` : 'No answer'), h('span', ms(row.duration_ms)), time(row.created_at)),
	why && h('p', h('strong', why[0]), ' ', why[1]),
	text ? block('Response', text) : status && h('p.muted', 'The response had no body.'),
	row.response_truncated && h('p.hint', 'The rest of the response was not kept.'),
	Object.keys(headers).length > 0 && block('Response headers', lines(headers))];
}

/** The view of one delivery alone. `back` is the address of the log. */
export function deliveryView(delivery, back, tab, signal) {
	const place = h('div');
	story(place, delivery, tab, signal);
	return h('section.card', { 'aria-label': 'Delivery' }, h('a.crumb', { href: back }, icon('back'), 'Webhook Logs'), h('h2', { tabindex: -1 }, 'Delivery'), place);
}
