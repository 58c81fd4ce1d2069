// A list that the API gives page by page, newest first. It begins with ten rows, and keeps itself up to date.
import { get, poll } from './http.js';
import { arrange, button, focus, h, put } from './dom.js';

const PAGE = 10;
const MOST = 100;
/** So many pages are read at most before the reader is asked: each may be empty although there are more rows. */
const TRIES = 20;

/**
 * Asks `questions` of the API at `path`, one after the other. Rows that are `live` may change or go. `look` has `make(row)`, which gives
 * an element and a function that shows a row in it; what stands above the rows, `heads`; `none(more)` for an empty list; `came(rows)`,
 * called after each look for new rows with those that came by themselves; `crowd()`, called when they are so many that the list would
 * have to begin again; perhaps `shown()`, called when rows may have come or gone; `first(count, more)`, called when the first rows are
 * there; and `refused(problem)`, which gives what to show for questions that the API refuses. Until then, what `area` shows stays.
 */
export function pages(area, { path, questions, live }, look, signal) {
	const rows = h('ol.card.log', { 'aria-label': `${look.label}, newest first` });
	const more = h('.actions.middle', button('Load more', deepen));
	let shown = null, next, drawn, deeper = false, crowded = false, refused = false;
	area.setAttribute('aria-busy', true);
	const refresh = poll(area, live ? 5000 : 3000, signal, read);

	async function read() {
		if (refused || (crowded && !live)) return;
		const first = !shown;
		const wanted = crowded ? MOST : live && !first ? Math.min(Math.max(shown.size, PAGE), MOST) : PAGE;
		const { data, rest } = await readFrom(questions, wanted, first ? TRIES : questions.length).catch((problem) => {
			refused = problem.status === 400 || problem.status === 422;
			if (!refused) throw problem;
			area.setAttribute('aria-busy', false);
			put(area, look.refused(problem));
			return {};
		});
		if (refused) return;
		const fresh = data.filter((row) => !shown?.has(keyOf(row)));
		// A whole page of new rows: there may be more between them and the known ones. The list then begins again, unless the
		// reader is using it.
		const anew = first || (fresh.length === data.length && data.length >= PAGE);
		crowded ||= !first && anew && (deeper || inUse(rows));
		if (crowded) {
			for (const row of data) if (shown.has(keyOf(row))) keep(row);
			return look.crowd();
		}
		if (anew) {
			shown = new Map();
			next = rest;
		}
		merge(data, !rest.length);
		if (!first) look.came(fresh);
		show();
		if (first) look.first(shown.size, next.length > 0);
	}

	/** Reads on with the questions `rest`. Gives the rows, and the questions that are then left. */
	async function readFrom(rest, wanted, tries) {
		const data = [];
		for (let left = tries; rest.length && left > 0 && data.length < wanted; left--) {
			const [question, ...others] = rest;
			const page = await get(`${path}?${new URLSearchParams({ limit: wanted, ...question })}`, signal);
			data.push(...page.data);
			rest = page.next_cursor ? [{ ...question, cursor: page.next_cursor }, ...others] : others;
		}
		return { data, rest };
	}

	/** Notes a row as it is now, and gives its key. */
	function keep(row) {
		const key = keyOf(row), seen = JSON.stringify(row), own = shown.get(key) ?? look.make(row);
		if (own.seen !== seen) own.update(row);
		own.seen = seen;
		shown.set(key, own);
		return key;
	}

	/** Puts `data` at the top. `all` says that there are no other rows; otherwise those behind the last one of `data` stay. */
	function merge(data, all) {
		const before = [...shown.keys()], order = [...new Set(data.map(keep))];
		const last = all ? before.length : before.findLastIndex((key) => order.includes(key));
		let at = 0;
		before.forEach((key, i) => {
			if (order.includes(key)) at = order.indexOf(key) + 1;
			else if (i > last || inUse(shown.get(key).element)) order.splice(at++, 0, key);
		});
		shown = new Map(order.map((key) => [key, shown.get(key)]));
		const held = document.activeElement;
		arrange(rows, [...shown.values()].map(({ element }) => element));
		if (held.isConnected) focus(held);
	}

	function show() {
		more.hidden = !next.length;
		const now = shown.size ? rows : more.hidden;
		// Not drawn again if it is there: it may have the focus.
		if (now !== drawn || !more.isConnected) put(area, shown.size ? [look.heads, rows] : look.none(next.length), more);
		area.setAttribute('aria-busy', false);
		drawn = now;
		look.shown?.();
	}

	async function deepen() {
		const last = rows.lastElementChild;
		deeper = true;
		const { data, rest } = await readFrom(next, PAGE, TRIES);
		next = rest;
		for (const row of data) if (!shown.has(keyOf(row))) rows.append(shown.get(keep(row)).element);
		show();
		(last?.nextSibling ?? last ?? rows.firstChild)?.querySelector('summary').focus();
	}

	return refresh;
}

const keyOf = (row) => row.id ?? row.delivery_id;

/** Whether the reader has opened, chosen or focused something in `element`. */
const inUse = (element) => element.contains(document.activeElement) || element.querySelector('[open], :checked') !== null;
