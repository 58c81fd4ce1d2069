// The tab with a webhook's log: its chart, and the newest attempts or deliveries, or one delivery alone. The address says which.
import { announce, button, columns, empty, focus, h, link, put } from './dom.js';
import { count } from './words.js';
import { href } from './address.js';
import { chart } from './chart.js';
import { attemptRow, chooser, deliveryRow } from './deliveries.js';
import { deliveryView, part } from './delivery.js';
import { filterForm, isFiltered, ofDeliveries, questions, seenAs } from './filters.js';
import { pages } from './pages.js';
import { recovery } from './recover.js';

const TELL_EVERY_MS = 5000;

/** Returns a function that goes to another place within the tab. */
export function logsTab(body, tab) {
	let log, own, back = href(tab.id);
	function move({ rest, query }) {
		if (!rest) back = location.hash;
		if (!rest && log) return log(query);
		own?.abort();
		const first = !own;
		own = part(tab.signal);
		log = null;
		if (rest) put(body, deliveryView(rest, back, tab, own.signal));
		else log = logView(body, tab, query, own.signal);
		if (first) return;
		const heading = body.querySelector('h2[tabindex]');
		focus(heading);
		heading.scrollIntoView({ block: 'nearest' });
	}
	move(tab);
	return move;
}

function logView(body, tab, query, signal) {
	const { id, path } = tab;
	const filters = filterForm(id), recover = recovery(tab, signal, () => refresh());
	const heading = h('h2', { tabindex: -1 }, 'Webhook Logs');
	const views = ['', 'deliveries'].map((view) => h('a', { 'data-view': view }, view ? 'Deliveries' : 'Attempts'));
	const held = button('New deliveries: show', () => { restart(); filters.focus(); }, '.small', { hidden: true });
	const tell = teller(signal);
	const area = h('div');
	let own, refresh;
	const drawn = chart(path, signal);
	put(body, drawn,
		h('.log-head', heading, h('span', { role: 'status' }, held), h('nav.views', { 'aria-label': 'View' }, views)),
		filters.element, recover.element, area);
	filters.load(signal).catch(() => {});

	function show(now) {
		query = now;
		for (const view of views) {
			view.href = seenAs(id, view.dataset.view, query);
			view.setAttribute('aria-current', (view.dataset.view === 'deliveries') === ofDeliveries(query));
		}
		filters.show(query);
		recover.show(query);
		restart();
	}

	function restart() {
		own?.abort();
		own = part(signal);
		held.hidden = true;
		const kind = ofDeliveries(query) ? deliveries() : attempts();
		const source = { path: `${path}/deliveries`, questions: questions(query), live: ofDeliveries(query) };
		refresh = pages(area, source, { ...kind, none, news: came, crowd: () => { held.hidden = false; } }, own.signal);
	}

	function came(rows) {
		tell(rows);
		drawn.dispatchEvent(new Event('grown'));
	}

	const attempts = () => ({
		make: (row) => attemptRow(row, tab, own.signal),
		heads: columns('row', '', 'Result', 'Event type', 'HTTP', 'Duration', 'Time'),
	});

	function deliveries() {
		const choice = chooser(path, own.signal, () => { refresh(); focus(heading); });
		return {
			make: (row) => deliveryRow(row, tab, choice, own.signal),
			heads: [h('.bulk-head', choice.head, choice.bar), choice.failures],
		};
	}

	function none(more) {
		if (more) return empty('Nothing found yet', h('p', '“Load more” looks at older deliveries.'));
		if (isFiltered(query)) return empty('Nothing matches these filters', h('a.button', { href: href(id, 'logs', { view: query.get('view') }) }, 'Show all'));
		return empty('Nothing was sent yet', h('p', 'Deliveries appear here by themselves.'), link('Send a test', `/${id}/test`));
	}

	show(query);
	return show;
}

/** Tells screen readers of new rows: at once, then after a pause of all that came meanwhile. */
function teller(signal) {
	let came = [], timer = 0;
	const tell = () => {
		timer = came.length && setTimeout(tell, TELL_EVERY_MS);
		if (!came.length || signal.aborted) return;
		const failed = came.filter((row) => (row.status ?? row.last_status) === 'failed').length;
		announce(`${count(came.length, 'new row')}${failed ? `, ${failed} failed` : ''}.`);
		came = [];
	};
	return (rows) => {
		came.push(...rows);
		if (!timer) tell();
	};
}
