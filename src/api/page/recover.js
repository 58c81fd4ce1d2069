// Sends again what ended without a success between two times. The reader sees the number first.
import { ask, get, part, poll } from './http.js';
import { button, focus, form, h, put, submit } from './dom.js';
import { counted, number } from './words.js';
import { href } from './address.js';
import { labelled, local, read, timeInput } from './filters.js';

const EVERY_MS = 5000;
const DAY_MS = 86_400_000;

export function recovery({ id, path, webhook }, signal, done) {
	const found = h('div', { role: 'status' });
	let counting;
	const clear = () => {
		counting?.abort();
		put(found);
	};
	const since = timeInput({ required: true, value: local(new Date(Date.now() - DAY_MS)), input: clear }), until = timeInput({ input: clear });

	async function look() {
		// A fixed end, so that the button sends what was counted.
		const span = { since: read(since), until: read(until) || new Date().toISOString() };
		const waiting = h('p', '');
		let known = 0;
		clear();
		// Ended, together with what it asks, when the times are changed.
		const { signal: own } = counting = part(signal);
		const { count: ended } = await get(`${path}/recover?${new URLSearchParams(span)}`, own);
		put(found,
			h('p', ended ? counted(ended) : 'Nothing', ' ended without a success in this time.'),
			ended > 0 && (webhook().active ? button(`Send ${number(ended)} again`, () => recover(span, ended), '.primary')
				: h('p.muted', 'Switch the webhook on to send them again.')),
			waiting);
		poll(waiting, EVERY_MS, own, async () => {
			const { data, next_cursor: more } = await get(`${path}/deliveries?view=deliveries&state=pending&limit=100`, own);
			// Said again only when it has changed.
			if (data.length === known) return;
			known = data.length;
			put(waiting, data.length > 0 && [`Not counted, because still to be sent anyway: ${counted(data.length, more)}. `,
				h('a', { href: href(id, 'logs', { view: 'deliveries', state: 'pending' }) }, 'See what waits')]);
		});
	}

	async function recover(span, ended) {
		const { recovering } = await ask('POST', `${path}/recover`, { body: span }), fewer = ended - recovering;
		clear();
		put(found, h('p', `${counted(recovering)} will be sent again, a few at a time${fewer > 0 ? `; ${number(fewer)} ${fewer === 1 ? 'was' : 'were'} resent meanwhile` : ''}.`));
		focus(control);
		done();
	}

	const control = submit('Count'), times = form('.line', control, look, labelled('From', since), labelled('To (now, if empty)', until), control);
	// The browser itself asks for what is missing, or only half typed.
	times.noValidate = false;
	return {
		element: h('details.fold.recovery', h('summary', 'Recover what was missed'),
			h('p.muted', 'What failed for good, was cancelled or not sent, by the time it ended.'), times, found),
		/** Takes over the span of the log's filters. */
		show(query) {
			if (!query.get('from') && !query.get('to')) return;
			if (query.get('from')) since.value = local(query.get('from'));
			until.value = local(query.get('to'));
			clear();
		},
	};
}
