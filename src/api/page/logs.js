// A webhook's log, newest first. New rows appear by themselves; an opened row shows all attempts of its delivery.
import { ask, eventTypes, get, poll } from './http.js';
import { block, button, columns, empty, h, icon, link, loading, put, say } from './dom.js';
import { count, failure, ms, outcome, time } from './words.js';
import { chart } from './chart.js';

const EVERY_MS = 3000;
const PAGE = 10;
const TRIES = 20;
const TRIGGERS = { event: 'First attempt', retry: 'Retry', test: 'Test', resend: 'Resent' };

export function logsTab(body, { id, path: base, signal, webhook }) {
	const path = `${base}/deliveries`;
	const option = (value, text) => h('option', { value }, text);
	const status = h('select', { 'aria-label': 'Status', change: restart }, option('', 'All statuses'), option('success', 'Success'), option('failed', 'Failed'));
	const type = h('select', { 'aria-label': 'Event type', change: restart }, option('', 'All event types'));
	eventTypes(signal).then((types) => type.append(...types.map((one) => option(one.type, one.type)))).catch(() => {});
	const rows = h('ol.card.log', { 'aria-label': 'Deliveries, newest first' });
	const area = h('div');
	const more = button('Load more', loadMore);
	const held = button('New deliveries: show', () => { restart(); status.focus(); }, '.small', { hidden: true });
	const drawn = chart(base, signal);
	put(body, drawn, h('.filters', h('h2', 'Webhook Logs'), h('span', { role: 'status' }, held), status, type), area, h('.actions.middle', more));

	let cursor, known, deeper, filtering;
	signal.addEventListener('abort', () => filtering.abort());
	restart();

	function restart() {
		filtering?.abort();
		filtering = new AbortController();
		known = deeper = null;
		put(area, loading());
		more.hidden = held.hidden = true;
		poll(area, EVERY_MS, filtering.signal, newest);
	}

	async function page(from) {
		const own = filtering.signal;
		const wanted = Object.entries({ limit: PAGE, status: status.value, event_type: type.value, cursor: from });
		const { data, next_cursor: next } = await get(`${path}?${new URLSearchParams(wanted.filter(([, value]) => value))}`, own);
		own.throwIfAborted();
		return { next, fresh: data.filter((row) => !known?.has(row.id)) };
	}

	async function newest() {
		if (!held.hidden) return;
		const { next, fresh } = await page();
		const first = !known, anew = first || fresh.length === PAGE;
		// A whole page of new rows: there may be more between them and the known ones. The list then begins again, unless the
		// reader is using it.
		if (known && anew && (deeper || rows.matches(':focus-within') || rows.querySelector('[open]'))) {
			held.hidden = false;
			return;
		}
		if (anew) {
			known = new Set();
			cursor = next;
			put(rows);
		}
		if (!first && !fresh.length) return;
		if (!first) drawn.dispatchEvent(new Event('grown'));
		rows.prepend(...fresh.map(logRow));
		try {
			if (anew) await fillPage(PAGE);
		} finally {
			show();
		}
	}

	/** Reads on until `wanted` rows are shown: a filtered page may be short although there are more rows. */
	async function fillPage(wanted) {
		const own = known;
		for (let tries = 0; cursor && known.size < wanted && tries < TRIES; tries++) {
			const { next, fresh } = await page(cursor);
			if (own !== known) return;
			cursor = next;
			rows.append(...fresh.map(logRow));
		}
	}

	function show() {
		more.hidden = !cursor;
		if (!known.size) put(area, nothing());
		else if (!rows.isConnected) put(area, columns('row', '', 'Result', 'Event type', 'HTTP', 'Duration', 'Time'), rows);
	}

	async function loadMore() {
		const last = rows.lastChild;
		deeper = true;
		await fillPage(known.size + 1);
		show();
		last?.nextSibling?.querySelector('summary').focus();
	}

	const nothing = () => (status.value || type.value
		? empty('Nothing matches these filters', button('Show all', () => { status.value = type.value = ''; restart(); }))
		: empty('Nothing was sent yet', h('p', 'Deliveries appear here by themselves.'), link('Send a test', `/${id}/test`)));

	function logRow(row) {
		known.add(row.id);
		const story = h('.story');
		const details = h('details', { toggle: () => details.open && tell(row, story) },
			h('summary', icon('open'), outcome(row.status),
				h('span.type', h('code', row.event_type), row.trigger !== 'event' && h('small.muted', TRIGGERS[row.trigger], row.trigger === 'retry' && ` · attempt ${row.attempt}`)),
				cell('HTTP status', row.http_status ?? '—'), cell('Duration', ms(row.duration_ms)), cell('Time', time(row.created_at))),
			story);
		return h('li', { 'data-id': row.id }, details);
	}

	function next({ status: last, next_attempt_at: at }) {
		if (!at) return last === 'success' ? 'None: it was delivered' : 'None';
		if (!webhook().active) return 'None: the webhook is inactive';
		return new Date(at) > Date.now() ? time(at) : 'Due now';
	}

	async function tell(row, story) {
		if (!story.firstChild) put(story, loading());
		try {
			const { data: [last = row, ...before] } = await get(`${path}?limit=100&delivery_id=${row.delivery_id}`, signal);
			put(story,
				h('dl', [['Event', h('code', last.event_id)], ['Delivery', h('code', last.delivery_id)],
					['Next attempt', next(last)]]
					.map(([name, value]) => [h('dt', name), h('dd', value)])),
				row.trigger !== 'test' && h('.actions.start', button('Resend', async () => {
					await ask('POST', `${path}/${row.delivery_id}/resend`);
					say('It is being sent again.');
				}, '.small')),
				h('h3', count(before.length + 1, 'attempt')),
				h('ol.attempts', [last, ...before].map((one) => h('li', attempt(one)))));
		} catch (problem) {
			if (!signal.aborted) put(story, h('p.error', problem.message));
		}
	}
}

export function attempt(row) {
	const why = failure(row);
	return [h('.facts', outcome(row.status), h('b', `Attempt ${row.attempt}`), h('span', TRIGGERS[row.trigger]),
		h('span', row.http_status ? `HTTP ${row.http_status}` : 'No answer'), h('span', ms(row.duration_ms)), time(row.created_at)),
		why && h('p', h('strong', why[0]), ' ', why[1]), snippet(row)];
}

const cell = (label, content) => h('span.cell', h('span.hidden', `${label} `), content);

const snippet = ({ http_status: status, response_snippet: text }) =>
	(text ? block('Response', text) : status && h('p.muted', 'The response had no body.'));
