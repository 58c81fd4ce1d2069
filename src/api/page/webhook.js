// The view of one webhook: name, state and warnings, above the tabs for log, test and settings.
import { get, part, poll, webhookPath } from './http.js';
import { copyButton, crumb, focus, h, hush, loading, put, unruled, warnings } from './dom.js';
import { MOST, count, number, outcome } from './words.js';
import { activeSwitch, appearance, aside, banner, look } from './switch.js';
import { logsTab } from './logs.js';
import { settingsTab } from './settings.js';
import { testTab } from './test.js';

const EVERY_MS = 5000;
const TABS = { logs: ['Webhook Logs', logsTab], test: ['Test', testTab], settings: ['Settings', settingsTab] };

/** Shows what `place` names, as address.js reads it. */
export function webhookView(main, place, signal) {
	const { id } = place;
	const head = h('.title', loading()), trouble = h('div'), body = h('div');
	const queue = h('a.waiting', { href: `#/webhooks/${id}/logs?view=deliveries&state=pending`, hidden: true }), extras = h('p.facts.hint');
	const links = Object.entries(TABS).map(([key, [label]]) => h('a', { href: `#/webhooks/${id}/${key}`, 'data-tab': key }, label));
	const tabs = h('nav.tabs', { 'aria-label': 'Webhook' }, links);
	put(main, crumb(), h('.top', head, h('p', queue), extras, trouble), tabs, body);
	// `last` is the last attempt of a webhook that fails, if it failed.
	let webhook, last, seen, open, tab, changed, move;
	/** The data of tests by type, kept when the reader goes to another tab. */
	const edited = new Map();

	const refresh = poll(main, EVERY_MS, signal, async () => {
		const { activity: { waiting } = {}, ...now } = await get(`${webhookPath(id)}?include=activity`, signal).catch((problem) => {
			// What was edited in a tab has no webhook any more.
			if (!problem.passes) open?.abort();
			throw problem;
		});
		await look(now, signal);
		// Tests tell nothing of the events.
		const row = now.failing_since && (await get(`${webhookPath(id)}/deliveries?limit=20`, signal)).data.find(({ trigger }) => trigger !== 'test');
		last = row?.status === 'failed' ? row : null;
		show(now);
		put(queue, `${number(waiting)}${waiting >= MOST ? '+' : ''} waiting`, now.max_per_second && `, at ${number(now.max_per_second)} a second`);
		queue.hidden = !waiting;
	});

	function show(now) {
		const first = !webhook, all = appearance(now, last);
		// A change that the reader has made may overtake an answer.
		if (signal.aborted || all === seen || now.updated_at < webhook?.updated_at) return;
		const held = !first && document.activeElement.dataset.key;
		webhook = now;
		seen = all;
		document.title = `${unruled(now.name)} · Webhooks`;
		const heading = h('h1', { tabindex: -1, 'data-key': 'name' }, h('bdi', now.name));
		put(head, h('div', heading, address(now)),
			h('.state', outcome(...state(now)), activeSwitch(now, 'Active', (after) => { show(after); refresh(); })));
		const { headers, max_per_second: pace } = now;
		put(extras, Object.keys(headers).map((name) => h('code', `${name}: [hidden]`)), pace && h('span', `At most ${count(pace, 'request')} a second`));
		put(trouble, warnings(now.warnings), aside(now, last), banner(now, last, refresh));
		if (held) focus(main.querySelector(`[data-key=${held}]`) ?? heading);
		if (!first) return changed?.();
		if (document.activeElement === document.body) focus(heading);
		choose(place);
	}

	/** Opens the tab of `wanted`. A tab that is open already and has given a function to move goes there by itself. */
	function choose(wanted) {
		const before = tab;
		place = wanted;
		tab = Object.hasOwn(TABS, place.tab) ? place.tab : 'logs';
		for (const one of links) {
			if (one.dataset.tab === tab) one.setAttribute('aria-current', 'page');
			else one.removeAttribute('aria-current');
		}
		if (!webhook) return;
		if (open && move && tab === before) return move(place);
		open?.abort();
		open = part(signal);
		changed = null;
		put(body);
		move = TABS[tab][1](body, { ...place, path: webhookPath(id), signal: open.signal, edited, show, webhook: () => webhook, onChange: (listener) => { changed = listener; } });
		if (tab === before) return;
		hush();
		tabs.scrollIntoView({ block: 'nearest' });
		if (document.activeElement === document.body) focus(main.querySelector('h1'));
	}

	choose(place);
	return { id, show: choose };
}

const address = ({ id, url }) => [['URL', url], ['ID', id]].map(([name, text]) =>
	h('.facts', h('span.url', name === 'ID' && 'ID ', h('bdi', text)), copyButton(() => text, `Copy ${name}`, `copy-${name}`)));

function state({ active, failing, disabled_reason: reason }) {
	if (active) return failing ? ['failed', 'Failing'] : ['success', 'Active'];
	return reason ? ['failed', 'Disabled'] : ['none', 'Inactive'];
}
