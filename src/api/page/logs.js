// The tab with a webhook's log: its chart, and the newest attempts or deliveries, or one delivery alone. The address says which.
import { part } from './http.js';
import { announce, button, columns, empty, focus, h, link, put } from './dom.js';
import { count } from './words.js';
import { href } from './address.js';
import { chart } from './chart.js';
import { attemptRow, chooser, deliveryRow } from './deliveries.js';
import { deliveryView } from './delivery.js';
import { everything, filterForm, isFiltered, ofDeliveries, questions, seenAs } from './filters.js';
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
		if (!first) body.querySelector('h2[tabindex]').focus();
	}
	move(tab);
	return move;
}

function logView(body, tab, query, signal) {
	const { id, path } = tab;
	const filters = filterForm(id, signal), recover = recovery(tab, signal, () => refresh()), tell = teller();
	const heading = h('h2', { tabindex: -1 }, 'Webhook Logs');
	const views = ['', 'deliveries'].map((view) => h('a.button.small', { 'data-view': view }, view ? 'Deliveries' : 'Attempts'));
	const held = button('New deliveries: show', () => { restart(); focus(heading); }, '.small', { hidden: true });
	const drawn = chart(path, signal), area = h('div');
	let own, refresh;
	put(body, drawn,
		h('.log-head', heading, h('span', { role: 'status' }, held), h('nav.views', { 'aria-label': 'View' }, views)),
		filters.element, recover.element, area);

	function show(now) {
		query = now;
		for (const one of views) {
			const { view } = one.dataset;
			one.href = seenAs(id, view, query);
			one.setAttribute('aria-current', Boolean(view) === ofDeliveries(query));
		}
		filters.show(query);
		recover.show(query);
		restart();
	}

	function restart() {
		own?.abort();
		own = part(signal);
		held.hidden = true;
		const live = ofDeliveries(query);
		refresh = pages(area, { path: `${path}/deliveries`, questions: questions(query), live },
			{ ...(live ? deliveries() : attempts()), none, came, crowd: () => { held.hidden = false; } }, own.signal);
	}

	function came(rows) {
		tell(rows);
		if (rows.length) drawn.dispatchEvent(new Event('grown'));
	}

	const attempts = () => ({
		make: (row) => attemptRow(row, tab, own.signal),
		heads: columns('row', '', 'Result', 'Event type', 'HTTP', 'Duration', 'Time'),
	});

	function deliveries() {
		const { heads, update } = chooser(area, path, own.signal, () => { refresh(); focus(heading); });
		return { make: (row) => deliveryRow(row, tab, own.signal), heads, shown: update };
	}

	function none(more) {
		if (more) return empty('Nothing found yet', h('p', '“Load more” looks at older deliveries.'));
		if (isFiltered(query)) return empty('Nothing matches these filters', h('a.button', { href: everything(id, query) }, 'Show all'));
		return empty('Nothing was sent yet', h('p', 'Deliveries appear here by themselves.'), link('Send a test', `/${id}/test`));
	}

	show(query);
	return show;
}

/** Tells screen readers of new rows. It is called after each look for them, and speaks only after a pause, of all that came in it. */
function teller() {
	let came = [], last = 0;
	return (rows) => {
		came.push(...rows);
		if (!came.length || Date.now() - last < TELL_EVERY_MS) return;
		const failed = came.filter((row) => (row.status ?? row.last_status) === 'failed').length;
		announce(`${count(came.length, 'new row')}${failed ? `, ${failed} failed` : ''}.`);
		came = [];
		last = Date.now();
	};
}
