// Rows of the log: one for each attempt, or one for each delivery. Chosen deliveries are sent again, one after the other.
import { get, part } from './http.js';
import { button, confirm, h, icon, notice, put, say } from './dom.js';
import { count, ms, number, outcome, time } from './words.js';
import { sendAgain, stateOf, story, TRIGGERS } from './delivery.js';

const TRIES = 5;
/** Leaves most of the account's requests a second to the rest of the page. */
const PAUSE_MS = 50;

/** Rows that show one attempt each. */
export const attemptRow = (row, tab, signal) => openingRow('li', row.id, row.delivery_id, tab, signal, (now) => [
	outcome(now.status), now.event_type,
	[now.trigger !== 'event' && [TRIGGERS[now.trigger], now.trigger === 'retry' && ` · attempt ${now.attempt}`]],
	{ 'HTTP status': now.http_status, Duration: ms(now.duration_ms), Time: time(now.created_at) },
]);

/** Rows that show one delivery each, and can be chosen unless it is a test. */
export function deliveryRow({ delivery_id: delivery, event_id: event, trigger }, tab, signal) {
	const box = h('input', { type: 'checkbox', value: delivery, 'aria-label': `Choose ${event ?? delivery}` }), test = trigger === 'test';
	const own = openingRow('li.pick', delivery, delivery, tab, signal, (now) => {
		const [kind, word, rest] = stateOf(now), { attempts: [last] = [{ http_status: now.last_http_status }] } = now;
		box.dataset.state = now.state;
		return [
			outcome(kind, word), now.event_type,
			[test ? TRIGGERS.test : new Date(now.next_attempt_at) > Date.now() ? ['next attempt ', time(now.next_attempt_at)] : now.state === 'pending' && tab.webhook().max_per_second ? 'for its turn' : rest.replace(/^\W+/, ''), event],
			{ 'Last HTTP status': last?.http_status, Created: time(now.created_at) },
		];
	});
	if (!test) own.element.prepend(box);
	return own;
}

/** A row that opens to the story of its delivery. `read` gives what stands in it: its result, event type, notes, and cells with their labels. */
function openingRow(tag, id, delivery, tab, signal, read) {
	const summary = h('summary'), place = h('.story');
	let own;
	const details = h('details', { toggle: () => {
		own?.abort();
		own = part(signal);
		if (details.open) story(place, delivery, tab, own.signal, id === delivery ? draw : undefined);
	} }, summary, place);

	function draw(now) {
		const [result, type, notes, cells] = read(now);
		put(summary, icon('open'), result, h('span.type', h('code', type ?? '—'), notes.map((note) => note && h('small.muted', note))),
			Object.entries(cells).map(([label, value]) => h('span.cell', h('span.hidden', `${label} `), value ?? '—')));
	}

	return {
		element: h(tag, { 'data-id': id, 'data-delivery': delivery }, details),
		update(now) {
			draw(now);
			place.dispatchEvent(new Event('stale'));
		},
	};
}

/** The way to choose among the deliveries in `area`, and the bar to send them again. `done` is called at the end. */
export function chooser(area, { path, webhook }, signal, done) {
	const boxes = () => [...area.querySelectorAll('.pick > input')], chosen = () => boxes().filter((box) => box.checked);
	const every = h('input', { type: 'checkbox', change: () => { for (const box of boxes()) box.checked = every.checked; } });
	const told = h('span'), control = button('', resend, '.primary.small'), offer = h('.bulk', told, control), failures = h('div');
	area.addEventListener('change', update, { signal });

	function update() {
		const { length } = chosen(), all = boxes().length;
		every.checked = length > 0 && length === all;
		every.indeterminate = length > 0 && length < all;
		offer.hidden = !length;
		put(told, `${number(length)} chosen`, !webhook().active && '. To send them again, switch the webhook on.');
		control.disabled = !webhook().active;
		put(control, `Resend ${number(length)}`);
	}

	async function resend() {
		const picked = chosen(), failed = [], stop = part(signal), all = picked.length;
		const again = [['delivered', 'were delivered already: your receiver gets them again.'], ['pending', 'wait, and would be sent without this, too.']]
			.map(([state, text]) => [picked.filter((box) => box.dataset.state === state).length, text]).filter(([n]) => n);
		if (again.length && !await confirm(`Send ${count(all, 'delivery')} again?`, again.map(([n, text]) => `${number(n)} of these ${number(all)} ${text}`), 'Send again')) return;
		const meter = h('progress', { max: all, 'aria-label': 'Deliveries resent' }), steps = h('span');
		const halt = button('Stop', () => stop.abort(), '.small'), going = h('.bulk', meter, steps, halt);
		let sent = 0;
		put(failures);
		offer.replaceWith(going);
		halt.focus();
		for (const box of picked) {
			meter.value = sent + failed.length;
			put(steps, `${number(meter.value)} of ${number(all)}`);
			if (stop.signal.aborted) break;
			try {
				await patiently(`${path}/deliveries/${box.value}`, stop.signal);
				sent += 1;
				box.checked = false;
				await pause(PAUSE_MS, stop.signal);
			} catch (problem) {
				if (problem.status === 401) throw problem;
				if (!stop.signal.aborted) failed.push(h('li', h('code', box.value), ` ${problem.message}`));
				// This status also means an event that is no longer kept.
				if (problem.status === 409 && !(await get(path, signal).catch(webhook)).active) break;
			}
		}
		say(`${number(sent)} of ${count(all, 'delivery')} will be sent again.`, failed.length ? 'failed' : 'success');
		going.replaceWith(offer);
		update();
		put(failures, failed.length > 0 && notice('.bad', `${count(failed.length, 'delivery')} could not be sent again`, h('ul', failed)));
		if (!signal.aborted) done();
	}

	return { heads: [h('.bulk-head', h('label.every', every, 'Choose all shown'), offer), failures], update };
}

/** Tries again when the API says when to: it does so of an account that asks too often. `signal` ends the waiting. */
async function patiently(path, signal) {
	for (let left = TRIES; ; left--) {
		try {
			// Without the signal: a request that is under way may be carried out all the same.
			return await sendAgain(path);
		} catch (problem) {
			if (!problem.retryAfter || !left) throw problem;
			await pause(problem.retryAfter * 1000, signal);
			if (signal.aborted) throw problem;
		}
	}
}

const pause = (ms, signal) => new Promise((done) => {
	setTimeout(done, ms);
	signal.addEventListener('abort', done, { once: true });
});
