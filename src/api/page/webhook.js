// The view of one webhook: name, state and warnings, above the tabs for log, test and settings.
import { get, poll, webhookPath } from './http.js';
import { crumb, focus, h, loading, put, say, toggle } from './dom.js';
import { outcome } from './words.js';
import { activate, appearance, banner, switched } from './list.js';
import { logsTab } from './logs.js';
import { settingsTab } from './settings.js';
import { testTab } from './test.js';

const EVERY_MS = 5000;
const TABS = { logs: ['Webhook Logs', logsTab], test: ['Test', testTab], settings: ['Settings', settingsTab] };

export function webhookView(main, id, tab, signal) {
	document.title = 'Webhook';
	const head = h('.title', loading()), trouble = h('div'), body = h('div');
	const links = Object.entries(TABS).map(([key, [label]]) => h('a', { href: `#/webhooks/${id}/${key}`, 'data-tab': key }, label));
	put(main, crumb(), head, trouble, h('nav.tabs', { 'aria-label': 'Webhook' }, links), body);
	let webhook, seen, open, changed;

	const refresh = poll(main, EVERY_MS, signal, async () => show(await get(webhookPath(id), signal)));

	function show(now) {
		const first = !webhook, look = appearance(now);
		if (signal.aborted || look === seen) return;
		const held = !first && document.activeElement.dataset.key;
		webhook = now;
		seen = look;
		document.title = `${now.name} · Webhooks`;
		const state = now.active ? (now.failing_since ? ['failed', 'Failing'] : ['success', 'Active']) : now.disabled_reason ? ['failed', 'Disabled'] : ['none', 'Inactive'];
		const heading = h('h1', { tabindex: -1, 'data-key': 'name' }, h('bdi', now.name));
		put(head, h('div', heading, h('p.url', h('bdi', now.url))), h('.state', outcome(...state), toggle(now.active, 'Active', async (on) => {
			const data = await activate(now, on);
			show(data);
			say(switched(data));
		})));
		put(trouble, banner(now, signal, refresh));
		if (held) focus(main.querySelector(`[data-key=${held}]`) ?? heading);
		if (!first) return changed?.();
		if (document.activeElement === document.body) focus(heading);
		choose(tab);
	}

	function choose(wanted) {
		tab = TABS[wanted] ? wanted : 'logs';
		for (const one of links) one.ariaCurrent = one.dataset.tab === tab ? 'page' : null;
		if (!webhook) return;
		open?.abort();
		open = new AbortController();
		changed = null;
		TABS[tab][1](body, { id, path: webhookPath(id), signal: open.signal, show, webhook: () => webhook, onChange: (listener) => { changed = listener; } });
	}

	signal.addEventListener('abort', () => open?.abort());
	choose(tab);
	return { id, show: choose };
}
