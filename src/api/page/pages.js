// A list that the API gives page by page, newest first. It begins with ten rows, and keeps itself up to date.
import { get, poll } from './http.js';
import { button, focus, h, loading, put } from './dom.js';

const PAGE = 10;
const MOST = 100;
/** So many pages are read at most before the reader is asked: each may be empty although there are more rows. */
const TRIES = 20;
const START = { question: 0 };

/**
 * Asks `questions` of the API at `path`, one after the other. Rows that are `live` may change or go. `look` has `make(row)`, which gives
 * an element and a function that updates it; what stands above the rows, `heads`; `none(more)` for an empty list; `news(rows)`,
 * called for rows that came by themselves; and `crowd()`, called when they are so many that the list would have to begin again.
 */
export function pages(area, { path, questions, live }, look, signal) {
	const rows = h('ol.card.log', { 'aria-label': 'Deliveries, newest first' });
	const more = h('.actions.middle', button('Load more', deepen));
	let shown = null, next, drawn, deeper = false, crowded = false;
	put(area, loading());
	const refresh = poll(area, live ? 5000 : 3000, signal, read);

	async function read() {
		if (crowded) return;
		const first = !shown;
		const wanted = live && !first ? Math.min(Math.max(shown.size, PAGE), MOST) : PAGE;
		const { data, rest } = await readFrom(START, wanted, first ? TRIES : questions.length);
		const fresh = data.filter((row) => !shown?.has(keyOf(row)));
		// A whole page of new rows: there may be more between them and the known ones. The list then begins again, unless the
		// reader is using it.
		const anew = first || (fresh.length === data.length && data.length >= PAGE);
		crowded = !first && anew && (deeper || inUse(rows));
		if (crowded) return look.crowd();
		if (anew) {
			shown = new Map();
			next = rest;
		}
		arrange(data, !rest);
		if (!first && fresh.length) look.news(fresh);
		show();
	}

	async function readFrom(place, wanted, tries) {
		const data = [];
		let rest = place;
		for (let left = tries; rest && left > 0 && data.length < wanted; left--) {
			const asked = new URLSearchParams({ limit: wanted, ...questions[rest.question], ...(rest.cursor && { cursor: rest.cursor }) });
			const page = await get(`${path}?${asked}`, signal);
			data.push(...page.data);
			if (page.next_cursor) rest = { ...rest, cursor: page.next_cursor };
			else rest = rest.question + 1 < questions.length ? { question: rest.question + 1 } : null;
		}
		return { data, rest };
	}

	/** Notes a row, and gives its key. */
	function keep(row) {
		const key = keyOf(row), own = shown.get(key), seen = JSON.stringify(row);
		if (!own) shown.set(key, { ...look.make(row), seen });
		else if (own.seen !== seen) own.update?.(row);
		shown.get(key).seen = seen;
		return key;
	}

	/** Puts `data` at the top. `all` says that there are no other rows; otherwise those behind the last one of `data` stay. */
	function arrange(data, all) {
		const before = [...shown.keys()], order = [...new Set(data.map(keep))];
		const last = all ? before.length : before.findLastIndex((key) => order.includes(key));
		let at = 0;
		before.forEach((key, i) => {
			if (order.includes(key)) at = order.indexOf(key) + 1;
			else if (i > last || inUse(shown.get(key).element)) order.splice(at++, 0, key);
		});
		shown = new Map(order.map((key) => [key, shown.get(key)]));
		const held = document.activeElement, elements = [...shown.values()].map(({ element }) => element);
		for (const one of [...rows.children]) if (!elements.includes(one)) one.remove();
		elements.forEach((one, i) => rows.children[i] === one || rows.insertBefore(one, rows.children[i] ?? null));
		if (held.isConnected) focus(held);
	}

	function show() {
		more.hidden = !next;
		const now = shown.size ? rows : Boolean(next);
		// Not drawn again if it is there: it may have the focus.
		if (now === drawn && more.isConnected) return;
		drawn = now;
		put(area, shown.size ? [look.heads, rows] : look.none(next), more);
	}

	async function deepen() {
		const last = rows.lastElementChild;
		deeper = true;
		const { data, rest } = await readFrom(next, PAGE, TRIES);
		next = rest;
		for (const row of data) if (!shown.has(keyOf(row))) rows.append(shown.get(keep(row)).element);
		show();
		(last ? last.nextSibling ?? last : rows.firstChild)?.querySelector('summary').focus();
	}

	return refresh;
}

const keyOf = (row) => row.id ?? row.delivery_id;

/** Whether the reader has opened, chosen or focused something in `element`. */
const inUse = (element) => element.contains(document.activeElement) || element.querySelector('[open], :checked') !== null;
