// Sends again what ended without a success between two times. The reader sees the number first.
import { ask, get } from './http.js';
import { act, button, h, put, say, submit } from './dom.js';
import { count, number } from './words.js';
import { href } from './address.js';
import { local, timeField } from './filters.js';

const DAY_MS = 86_400_000;
/** The API counts no further. */
const MOST = 100_000;

const counted = (n, more = n >= MOST) => (more ? `${number(n)} or more deliveries` : count(n, 'delivery'));

export function recovery({ id, path, webhook }, signal, done) {
	const clear = () => put(found);
	const since = timeField('From', local(new Date(Date.now() - DAY_MS)), { required: true, input: clear });
	const until = timeField('To (now, if empty)', '', { input: clear });
	const found = h('div', { role: 'status' });

	async function look() {
		clear();
		// A fixed end, so that the button sends what was counted.
		const span = { since: since.iso(), until: until.iso() || new Date().toISOString() };
		if (!span.since) return put(found, h('p.error', 'Say from when on.'));
		const [{ count: ended }, waiting] = await Promise.all([
			get(`${path}/recover?${new URLSearchParams(span)}`, signal),
			get(`${path}/deliveries?view=deliveries&state=pending&limit=100`, signal),
		]);
		const { data: { length: retried }, next_cursor: more } = waiting;
		put(found,
			h('p', ended ? `${counted(ended)} ended without a success in this time.` : 'Nothing ended without a success in this time.'),
			ended > 0 && (webhook().active ? button(`Send ${number(ended)} again`, () => recover(span), '.primary')
				: h('p.muted', 'Switch the webhook on to send them again.')),
			(retried > 0 || more) && h('p', `Not counted, because still to be sent anyway: ${counted(retried, more)}. `,
				h('a', { href: href(id, 'logs', { view: 'deliveries', state: 'pending' }) }, 'See what waits')));
	}

	async function recover(span) {
		const { recovering } = await ask('POST', `${path}/recover`, { body: span });
		put(found, h('p', `${counted(recovering)} will be sent again, a few at a time.`));
		say(`${counted(recovering)} will be sent again.`);
		done();
	}

	const control = submit('Count');
	const element = h('details.card.recovery', h('summary', 'Recover what was missed'),
		h('p.muted', 'What failed for good, was cancelled or was not sent, by the time at which it ended.'),
		h('form.line', { novalidate: true, submit: (event) => { event.preventDefault(); act(control, look); } }, since.element, until.element, control),
		found);
	return {
		element,
		/** Takes over the span of the log's filters. */
		show(query) {
			if (!query.get('from') && !query.get('to')) return;
			if (query.get('from')) since.input.value = local(query.get('from'));
			until.input.value = local(query.get('to'));
			clear();
		},
	};
}
