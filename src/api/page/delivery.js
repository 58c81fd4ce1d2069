// One delivery, whole: its state in words, what was sent, what came back, and the ways to send it again.
import { ask, get, poll } from './http.js';
import { block, button, copyButton, h, icon, put, say } from './dom.js';
import { count, failure, ms, outcome, time } from './words.js';
import { UUID, href } from './address.js';
import { mayLink, permalink } from './embed.js';
import { curl, indented } from './curl.js';

const EVERY_MS = 3000;
/** A delivery that has ended may be sent again elsewhere: each fifth time it is looked at all the same. */
const ENDED_EVERY = 5;
/** So long after its time a delivery may still be on its way. */
const LATE_MS = 5000;
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
const RESENT = ['none', 'Waiting', ', to be sent again'];

/** The state of a row of the list, or of one whole delivery, as an entry of `STATES`. */
export function stateOf({ state, last_status: status, attempts_made: made, attempts }) {
	const last = status ?? attempts?.[0]?.status;
	if (state === 'pending' && last) return made ? RETRYING : RESENT;
	return STATES[state] ?? ['none', state, ''];
}

/** When it is attempted next. A failing receiver gets one delivery at a time, whatever the times of the others. */
export function nextAttempt({ state, next_attempt_at: iso }, { active, failing_since: failing, max_per_second: pace }) {
	if (state !== 'pending') return 'None';
	if (!active) return 'None: the webhook is inactive';
	const late = Date.now() - new Date(iso);
	if (late < 0) return time(iso);
	if (late < LATE_MS) return 'In a moment';
	if (failing) return 'When your receiver answers again: until then one delivery is tried at a time.';
	return pace ? `When it is its turn: at most ${count(pace, 'request')} a second` : 'After others that were due before it';
}

const copied = (label, id) => [h('code', id), ' ', copyButton(() => id, `Copy ${label}`)];

/** A button that says what it copies. */
const copier = (label, text, said) => Object.assign(copyButton(text, label, null, said), { textContent: label });

export const lines = (headers) => Object.entries(headers).map((header) => header.join(': ')).join('\n');

/**
 * Shows a delivery in `place`, and what becomes of it until `signal` ends. An event `stale` has it looked at again; `seen` is called
 * with it after each look.
 */
export function story(place, delivery, { id, path, webhook }, signal, seen = () => {}) {
	const state = h('span'), next = h('span'), attempts = h('ol.attempts'), title = h('h3'), sent = h('div'), known = new Set();
	const resend = button('Resend', async () => {
		await sendAgain(`${path}/deliveries/${delivery}`);
		say('It is being sent again.');
		again();
	}, '.small');
	const inactive = h('p.hint', 'To send it again, switch the webhook on.');
	let settled = false, looks = 0, last;
	const missing = () => put(place, h('p.error', 'This delivery does not exist, or is no longer kept.'));
	// It comes from the address, which may be anybody's.
	if (!UUID.test(delivery)) return missing();

	const refresh = poll(place, EVERY_MS, signal, async () => {
		allow();
		looks += 1;
		if (settled && looks % ENDED_EVERY) return;
		const one = await get(`${path}/deliveries/${delivery}`, signal).catch((problem) => {
			if (problem.status === 404) return null;
			throw problem;
		});
		settled = one?.state !== 'pending';
		if (!one) return missing();
		if (!state.isConnected) draw(one);
		update(one);
		seen(one);
	});

	function again() {
		settled = false;
		refresh();
	}
	place.addEventListener('stale', again, { signal });

	function allow() {
		inactive.hidden = webhook().active;
		resend.disabled = !webhook().active;
	}

	function draw({ event_id: event, event_type: type, created_at: created, payload: text, attempts: [newest] }) {
		const address = href(id, `logs/${delivery}`), made = time(created);
		const facts = {
			State: state, 'Next attempt': next, 'Event type': type && h('code', type), Event: event && copied('event ID', event),
			Delivery: copied('delivery ID', delivery), Created: `${made.textContent} · ${made.title}`,
		};
		put(place, h('dl', Object.entries(facts).map(([name, value]) => value && [h('dt', name), h('dd', value)])),
			h('.actions.start', text !== null && [resend, copier('Copy as curl (bash)', () => curl(webhook().url, last.request_headers, text),
				'Copied for bash. First set $WEBHOOK_SIGNATURE and $X_WEBHOOK_SIGNATURE (see “Headers sent”), $HEADER_… for each hidden header, and $QUERY if the URL has a “?”.')],
			mayLink() && copier('Copy link', () => permalink(address.slice(1))),
			place.closest('details') && h('a', { href: address }, 'Open alone')),
			text !== null && inactive,
			text !== null ? payload(text)
				: h('p.muted', newest?.trigger === 'test' ? 'The payload of a test is not kept.' : 'The event is no longer kept, and its payload with it.'),
			sent, title, attempts);
	}

	function update(one) {
		const [kind, word, rest] = stateOf(one), fresh = one.attempts.filter((row) => !known.has(row.id));
		last = one;
		put(state, outcome(kind, word), rest);
		put(next, nextAttempt(one, webhook()));
		put(title, count(one.attempts.length, 'attempt'));
		if (!fresh.length) return;
		for (const row of fresh) known.add(row.id);
		attempts.prepend(...fresh.map((row) => h('li', attempt(row))));
		put(sent, one.request_headers && [block('Headers sent', lines(one.request_headers)),
			h('p.hint', 'Of the last attempt, without Host and signatures that cannot be made again.')]);
	}
}

/** Sends the delivery at `path` again. */
export const sendAgain = (path) => ask('POST', `${path}/resend`).catch((problem) => {
	if (problem.status === 404) problem.message = 'Its payload is no longer kept.';
	throw problem;
});

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
	return [h('.facts', outcome(row.status), h('b', `${row.trigger === 'resend' ? 'Resent, a' : 'A'}ttempt ${row.attempt}`), row.trigger !== 'resend' && h('span', TRIGGERS[row.trigger]),
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
