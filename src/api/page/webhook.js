// One webhook: its name, its state and its trouble, above its log, its test and its settings.
import { ask, get, webhookPath } from './http.js';
import { button, empty, h, icon, put, say, saying, skeleton, toggle, words } from './dom.js';
import { outcome } from './words.js';
import { banner, switched } from './list.js';
import { logsTab } from './logs.js';
import { settingsTab } from './settings.js';
import { testTab } from './test.js';
import { poll } from './poll.js';

const EVERY_MS = 5000;
const TABS = { logs: ['Webhook Logs', logsTab], test: ['Test', testTab], settings: ['Settings', settingsTab] };

export function webhookView(main, id, tab, signal) {
  document.title = 'Webhook';
  const head = h('div', { class: 'title' }, skeleton(1));
  const trouble = h('div', {});
  const tabs = h('nav', { class: 'tabs', 'aria-label': 'Webhook' },
    Object.entries(TABS).map(([key, [label]]) => h('a', { href: `#/webhooks/${id}/${key}`, 'data-tab': key }, label)));
  const body = h('div', {});
  const crumb = h('a', { class: 'crumb', href: '#/webhooks' }, icon('back'), 'Webhooks');
  put(main, crumb, head, trouble, tabs, body);

  let webhook = null;
  let seen = '';
  let open;
  const listeners = new Set();

  const refresh = poll(EVERY_MS, signal, async () => show((await get(webhookPath(id), signal)).data), (problem) => {
    if (problem.status === 401) return;
    put(main, crumb, problem.status === 404
      ? empty('This webhook does not exist', h('p', {}, 'It was deleted, or it belongs to another account.'), h('a', { class: 'button', href: '#/webhooks' }, 'All webhooks'))
      : empty('The webhook could not be loaded', h('p', {}, words(problem)), button('Try again', () => webhookView(main, id, tab, signal))));
  });

  function show(now) {
    if (signal.aborted || JSON.stringify(now) === seen) return;
    const first = !webhook;
    const held = !first && head.contains(document.activeElement);
    webhook = now;
    seen = JSON.stringify(now);
    document.title = `${now.name} · Webhooks`;
    const control = toggle(now.active, 'Active', (active) => saying(async () => {
      const { data } = await ask('PATCH', webhookPath(id), { body: { active } });
      show(data);
      say(switched(data));
    }));
    const state = now.active ? (now.failing_since ? ['failed', 'Failing'] : ['success', 'Active']) : now.disabled_reason ? ['failed', 'Disabled'] : [null, 'Inactive'];
    const heading = h('h1', { tabindex: -1 }, h('bdi', {}, now.name));
    put(head,
      h('div', {}, heading, h('p', { class: 'url' }, h('bdi', {}, now.url))),
      h('div', { class: 'state' }, outcome(...state), control));
    put(trouble, banner(now, signal, refresh));
    if (held) control.focus();
    if (first) {
      if (document.activeElement === document.body) heading.focus({ preventScroll: true });
      choose(tab);
    }
    for (const listener of listeners) listener(now);
  }

  /** Shows a tab; what the last one had under way ends. */
  function choose(wanted) {
    tab = TABS[wanted] ? wanted : 'logs';
    for (const link of tabs.children) {
      if (link.dataset.tab === tab) link.setAttribute('aria-current', 'page');
      else link.removeAttribute('aria-current');
    }
    if (!webhook) return;
    open?.abort();
    open = new AbortController();
    listeners.clear();
    TABS[tab][1](body, {
      id, signal: open.signal, show, refresh, webhook: () => webhook, onChange: (listener) => listeners.add(listener),
    });
  }

  signal.addEventListener('abort', () => open?.abort());
  choose(tab);
  return { id, show: choose };
}
