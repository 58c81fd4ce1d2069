// Rows of the log: one for each attempt, or one for each delivery. Chosen deliveries are sent again, one after the other.
import { ask } from './http.js';
import { button, h, icon, notice, put, say } from './dom.js';
import { count, ms, number, outcome, time } from './words.js';
import { part, stateOf, story, TRIGGERS } from './delivery.js';

const TRIES = 5;
/** Leaves most of the account's requests a second to the rest of the page. */
const PAUSE_MS = 50;

const cell = (label, ...content) => h('span.cell', h('span.hidden', `${label} `), content);

/** A row that opens to the story of its delivery. */
function opening(delivery, tab, signal) {
	const place = h('.story');
	let own;
	const details = h('details', { toggle: () => {
		own?.abort();
		own = details.open && part(signal);
		if (own) story(place, delivery, tab, own.signal);
	} }, h('summary'), place);
	return details;
}

export function attemptRow(row, tab, signal) {
	const details = opening(row.delivery_id, tab, signal);
	put(details.firstChild, icon('open'), outcome(row.status),
		h('span.type', h('code', row.event_type), row.trigger !== 'event' && h('small.muted', TRIGGERS[row.trigger], row.trigger === 'retry' && ` · attempt ${row.attempt}`)),
		cell('HTTP status', row.http_status ?? '—'), cell('Duration', ms(row.duration_ms)), cell('Time', time(row.created_at)));
	return { element: h('li', { 'data-id': row.id }, details) };
}

export function deliveryRow(row, tab, choice, signal) {
	const { delivery_id: delivery, event_id: event } = row;
	const details = opening(delivery, tab, signal);
	const update = (now) => {
		const [kind, word, rest] = stateOf(now);
		put(details.firstChild, icon('open'), outcome(kind, word),
			h('span.type', h('code', now.event_type ?? '—'), h('small.muted', new Date(now.next_attempt_at) > Date.now() ? ['next attempt ', time(now.next_attempt_at)] : rest.replace(/^\W+/, ''))),
			cell('HTTP status', now.last_http_status ?? '—'), h('span.cell', count(now.attempts_made, 'attempt')), cell('Created', time(now.created_at)));
		details.lastChild.dispatchEvent(new Event('stale'));
	};
	update(row);
	return { element: h('li.pick', { 'data-id': delivery }, choice.box(delivery, `Choose ${event ?? delivery}`), details), update };
}

/** Deliveries that the reader has chosen, and the bar to send them again. `done` is called at the end. */
export function chooser(path, signal, done) {
	const boxes = new Map();
	const every = h('input', { type: 'checkbox', 'aria-label': 'Choose all shown', change: () => {
		for (const box of boxes.values()) box.checked = every.checked && box.isConnected;
		update();
	} });
	const bar = h('.bulk'), failures = h('div'), told = h('span'), meter = h('progress', { 'aria-label': 'Deliveries resent' });
	const chosen = () => [...boxes].filter(([, box]) => box.checked && box.isConnected).map(([id]) => id);

	function update() {
		if (bar.contains(meter)) return;
		const { length } = chosen();
		const all = [...boxes.values()].filter((box) => box.isConnected).length;
		every.checked = length > 0 && length === all;
		every.indeterminate = length > 0 && length < all;
		put(bar, length > 0 && [h('span', `${number(length)} chosen`), button(`Resend ${number(length)}`, resend, '.primary.small')]);
	}

	async function resend() {
		const ids = chosen(), failed = [], stop = part(signal);
		const halt = button('Stop', () => stop.abort(), '.small');
		let sent = 0;
		meter.max = ids.length;
		put(failures);
		put(bar, meter, told, halt);
		halt.focus();
		for (const id of ids) {
			put(told, `${number(sent + failed.length)} of ${number(ids.length)}`);
			meter.value = sent + failed.length;
			if (stop.signal.aborted) break;
			try {
				await sendAgain(`${path}/deliveries/${id}/resend`, stop.signal);
				sent += 1;
				boxes.get(id).checked = false;
				await pause(PAUSE_MS, stop.signal);
			} catch (problem) {
				if (problem.status === 401) throw problem;
				if (!stop.signal.aborted) failed.push([id, problem.message]);
			}
		}
		say(`${number(sent)} of ${count(ids.length, 'delivery')} will be sent again.`, failed.length ? 'failed' : 'success');
		put(bar);
		update();
		put(failures, failed.length > 0 && notice('.bad', `${count(failed.length, 'delivery')} could not be sent again`,
			h('ul', failed.map(([id, reason]) => h('li', h('code', id), ` ${reason}`)))));
		if (!signal.aborted) done();
	}

	return {
		head: h('label.every', every, 'Choose all shown'), bar, failures,
		box(id, label) {
			const box = h('input', { type: 'checkbox', 'aria-label': label, change: update });
			boxes.set(id, box);
			return box;
		},
	};
}

/** Tries again when the API says when to: it does so of an account that asks too often. `signal` ends the waiting. */
async function sendAgain(path, signal) {
	for (let left = TRIES; ; left--) {
		try {
			// Without the signal: a request that is under way may be carried out all the same.
			return await ask('POST', path);
		} catch (problem) {
			if (problem.retryAfter && left) await pause(problem.retryAfter * 1000, signal);
			if (!problem.retryAfter || !left || signal.aborted) throw problem;
		}
	}
}

const pause = (ms, signal) => new Promise((done) => {
	setTimeout(done, ms);
	signal.addEventListener('abort', done, { once: true });
});
