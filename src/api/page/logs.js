// The tab with a webhook's log: its chart, and the newest attempts or deliveries, or one delivery alone. The address says which.
import { part } from './http.js';
import { announce, button, columns, empty, focus, h, link, notice, put } from './dom.js';
import { count } from './words.js';
import { href } from './address.js';
import { chart } from './chart.js';
import { attemptRow, chooser, deliveryRow } from './deliveries.js';
import { deliveryView } from './delivery.js';
import { everything, filterForm, isFiltered, nothing, ofDeliveries, questions, seenAs } from './filters.js';
import { pages } from './pages.js';
import { recovery } from './recover.js';

/** Returns a function that goes to another place within the tab. */
export function logsTab(body, tab) {
	let log, own, alone, back = href(tab.id);
	function move({ rest, query }) {
		if (!rest) back = location.hash;
		if (!rest && log) return log(query);
		own?.abort();
		const first = !own;
		own = part(tab.signal);
		log = null;
		if (rest) put(body, deliveryView(rest, back, tab, own.signal));
		else log = logView(body, tab, query, own.signal, alone);
		alone = rest;
		if (!first) focus(body.querySelector('h2'));
	}
	move(tab);
	return move;
}

/** `left` is the delivery from which the reader comes back, if any. */
function logView(body, tab, query, signal, left) {
	const { id, path } = tab;
	const filters = filterForm(id, signal), recover = recovery(tab, signal, () => refresh());
	const heading = h('h2.hidden', { tabindex: -1 }, 'Webhook Logs');
	const views = ['', 'deliveries'].map((view) => h('a.button.small', { 'data-view': view }, view ? 'Deliveries' : 'Attempts'));
	const held = button('', () => { restart(); focus(heading); }, '.small', { hidden: true });
	const drawn = chart(path, signal), area = h('div');
	let own, look, refresh, moved;
	put(body, heading, h('.tools', h('nav.views', { 'aria-label': 'View' }, views), filters.element, recover.element, h('span', { role: 'status' }, held)),
		area, drawn);

	function show(now) {
		moved = now !== query;
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
		look = live ? deliveries() : attempts();
		put(held, `New ${look.label.toLowerCase()}: show`);
		refresh = pages(area, { path: `${path}/deliveries`, questions: questions(query), live },
			{ ...look, none, came, first, refused, crowd: () => { held.hidden = false; } }, own.signal);
	}

	/** Tells of the first rows of a changed question, and goes to that of the delivery from which the reader comes back. */
	function first(n, more) {
		if (moved) announce(n ? `${count(n, look.one)}${more ? ', and more' : ''}.` : area.querySelector('.empty').firstChild.textContent);
		if (left) focus(area.querySelector(`[data-delivery="${left}"] summary`));
		left = null;
	}

	/** What the API says of filters that it refuses. */
	function refused({ message }) {
		announce(message);
		return notice('.bad', 'These filters are not possible', h('p', message), clears('Clear filters'));
	}

	const clears = (label) => h('a.button.clears', { href: everything(id, query) }, label);

	function came(rows) {
		if (!rows.length) return;
		const failed = rows.filter((row) => (row.status ?? row.last_status) === 'failed').length;
		announce(`${count(rows.length, `new ${look.one}`)}${failed ? `, ${failed} failed` : ''}.`);
		drawn.dispatchEvent(new Event('grown'));
	}

	const attempts = () => ({
		one: 'attempt', label: 'Attempts',
		make: (row) => attemptRow(row, tab, own.signal),
		heads: columns('row', '', 'Result', 'Event type', 'HTTP', 'Duration', 'Time'),
	});

	function deliveries() {
		const { heads, update } = chooser(area, tab, own.signal, () => { refresh(); focus(heading); });
		return {
			one: 'delivery', label: 'Deliveries',
			make: (row) => deliveryRow(row, tab, own.signal),
			heads: [heads, columns('row.picked', '', 'State', 'Event', 'Last HTTP status', 'Created')], shown: update,
		};
	}

	function none(more) {
		if (more) return empty('Nothing found yet', h('p', '“Load more” looks further back.'));
		if (isFiltered(query)) return empty(nothing(query), clears('Show all'));
		return empty('Nothing was sent yet', h('p', 'Deliveries appear here by themselves.'), link('Send a test', `/${id}/test`));
	}

	show(query);
	return show;
}
