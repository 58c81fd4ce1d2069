// Rows of the log: one for each attempt, or one for each delivery. Chosen deliveries are sent again, one after the other.
import { ask, part } from './http.js';
import { button, h, icon, notice, put, say } from './dom.js';
import { count, ms, number, outcome, time } from './words.js';
import { stateOf, story, TRIGGERS } from './delivery.js';

const TRIES = 5;
/** Leaves most of the account's requests a second to the rest of the page. */
const PAUSE_MS = 50;

/** Rows that show one attempt each. */
export const attemptRow = (row, tab, signal) => openingRow('li', row.id, row.delivery_id, tab, signal, (now) => [
	outcome(now.status), now.event_type,
	now.trigger !== 'event' && [TRIGGERS[now.trigger], now.trigger === 'retry' && ` · attempt ${now.attempt}`],
	{ 'HTTP status': now.http_status, Duration: ms(now.duration_ms), Time: time(now.created_at) },
]);

/** Rows that show one delivery each, and can be chosen. */
export function deliveryRow({ delivery_id: delivery, event_id: event }, tab, signal) {
	const own = openingRow('li.pick', delivery, delivery, tab, signal, (now) => {
		const [kind, word, rest] = stateOf(now);
		return [
			outcome(kind, word), now.event_type,
			new Date(now.next_attempt_at) > Date.now() ? ['next attempt ', time(now.next_attempt_at)] : rest.replace(/^\W+/, ''),
			{ 'HTTP status': now.last_http_status, Made: count(now.attempts_made, 'attempt'), Created: time(now.created_at) },
		];
	});
	own.element.prepend(h('input', { type: 'checkbox', value: delivery, 'aria-label': `Choose ${event ?? delivery}` }));
	return own;
}

/** A row that opens to the story of its delivery. `look` gives what stands in it: its result, event type, a note, and cells with their labels. */
function openingRow(tag, id, delivery, tab, signal, look) {
	const summary = h('summary'), place = h('.story');
	let own;
	const details = h('details', { toggle: () => {
		own?.abort();
		own = part(signal);
		if (details.open) story(place, delivery, tab, own.signal);
	} }, summary, place);
	return {
		element: h(tag, { 'data-id': id }, details),
		update(now) {
			const [result, type, note, cells] = look(now);
			put(summary, icon('open'), result, h('span.type', h('code', type ?? '—'), note && h('small.muted', note)),
				Object.entries(cells).map(([label, value]) => h('span.cell', h('span.hidden', `${label} `), value ?? '—')));
			place.dispatchEvent(new Event('stale'));
		},
	};
}

/** The way to choose among the deliveries in `area`, and the bar to send them again. `done` is called at the end. */
export function chooser(area, path, signal, done) {
	const boxes = () => [...area.querySelectorAll('.pick > input')], chosen = () => boxes().filter((box) => box.checked);
	const every = h('input', { type: 'checkbox', change: () => { for (const box of boxes()) box.checked = every.checked; } });
	const told = h('span'), control = button('', resend, '.primary.small'), offer = h('.bulk', told, control), failures = h('div');
	area.addEventListener('change', update, { signal });

	function update() {
		const { length } = chosen(), all = boxes().length;
		every.checked = length > 0 && length === all;
		every.indeterminate = length > 0 && length < all;
		offer.hidden = !length;
		put(told, `${number(length)} chosen`);
		put(control, `Resend ${number(length)}`);
	}

	async function resend() {
		const picked = chosen(), failed = [], stop = part(signal);
		const meter = h('progress', { max: picked.length, 'aria-label': 'Deliveries resent' }), steps = h('span');
		const halt = button('Stop', () => stop.abort(), '.small'), going = h('.bulk', meter, steps, halt);
		let sent = 0;
		put(failures);
		offer.replaceWith(going);
		halt.focus();
		for (const box of picked) {
			meter.value = sent + failed.length;
			put(steps, `${number(meter.value)} of ${number(meter.max)}`);
			if (stop.signal.aborted) break;
			try {
				await sendAgain(`${path}/deliveries/${box.value}/resend`, stop.signal);
				sent += 1;
				box.checked = false;
				await pause(PAUSE_MS, stop.signal);
			} catch (problem) {
				if (problem.status === 401) throw problem;
				if (!stop.signal.aborted) failed.push(h('li', h('code', box.value), ` ${problem.message}`));
			}
		}
		say(`${number(sent)} of ${count(picked.length, 'delivery')} will be sent again.`, failed.length ? 'failed' : 'success');
		going.replaceWith(offer);
		update();
		put(failures, failed.length > 0 && notice('.bad', `${count(failed.length, 'delivery')} could not be sent again`, h('ul', failed)));
		if (!signal.aborted) done();
	}

	return { heads: [h('.bulk-head', h('label.every', every, 'Choose all shown'), offer), failures], update };
}

/** Tries again when the API says when to: it does so of an account that asks too often. `signal` ends the waiting. */
async function sendAgain(path, signal) {
	for (let left = TRIES; ; left--) {
		try {
			// Without the signal: a request that is under way may be carried out all the same.
			return await ask('POST', path);
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
