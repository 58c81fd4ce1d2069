// @ts-check
// All webhooks of the account, kept up to date while the list is open.
import { ask, get, webhookPath } from './http.js';
import { button, empty, h, icon, notice, put, say, saying, skeleton, toggle, words, busy } from './dom.js';
import { ago, count, local, number, outcome, trouble } from './words.js';
import { poll } from './poll.js';

const EVERY_MS = 5000;
const CHIPS = 2;
const MANY = 1000;

/** @param {HTMLElement} main @param {AbortSignal} signal */
export function listView(main, signal) {
  document.title = 'Webhooks';
  const body = h('div', {}, skeleton(4));
  put(main,
    h('header', { class: 'head' },
      h('div', {}, h('h1', { tabindex: -1 }, 'Webhooks'), h('p', { class: 'muted' }, 'Get a signed POST request when something happens in your account.')),
      h('a', { class: 'button primary', href: '#/webhooks/new' }, icon('plus'), 'Create Webhook')), body);
  /** @type {Map<string, {seen: string, row: HTMLElement}>} */
  let rows = new Map();
  let shown = '';
  const refresh = poll(EVERY_MS, signal, async () => {
    const webhooks = await all(signal);
    const seen = JSON.stringify(webhooks);
    if (seen === shown) return;
    shown = seen;
    if (!webhooks.length) {
      rows = new Map();
      return put(body, nothing());
    }
    const before = rows;
    rows = new Map(webhooks.map((webhook) => {
      const old = before.get(webhook.id);
      const now = JSON.stringify(webhook);
      if (old?.seen === now) return [webhook.id, old];
      const row = webhookRow(webhook, signal, () => refresh());
      // The reader's place on the keyboard is kept.
      const held = old?.row.contains(document.activeElement) && document.activeElement?.getAttribute('data-key');
      old?.row.replaceWith(row);
      if (held) /** @type {HTMLElement | null} */ (row.querySelector(`[data-key=${held}]`))?.focus();
      return [webhook.id, { seen: now, row }];
    }));
    const list = body.querySelector('ul.webhooks');
    const order = [...rows.values()].map(({ row }) => row);
    if (!list) put(body, columns(), h('ul', { class: 'card webhooks', 'aria-label': 'Webhooks' }, order));
    else if (order.length !== list.children.length || order.some((row, i) => list.children[i] !== row)) put(list, order);
  }, (problem) => put(body, empty('The webhooks could not be loaded', h('p', {}, words(problem)), button('Try again', () => listView(main, signal)))));
}

/** @param {AbortSignal} signal */
async function all(signal) {
  /** @type {any[]} */
  const webhooks = [];
  let cursor = '';
  do {
    const page = (await get(`/webhooks?limit=100&include=activity${cursor && `&cursor=${encodeURIComponent(cursor)}`}`, signal)).data;
    webhooks.push(...page.data);
    cursor = page.next_cursor;
  } while (cursor);
  return webhooks;
}

const nothing = () =>
  empty('No webhooks yet',
    h('p', {}, 'Create one to have penr.ai call your server when content is published, a keyword is approved, or a site is connected.'),
    h('a', { class: 'button primary', href: '#/webhooks/new' }, 'Create your first webhook'));

const columns = () =>
  h('div', { class: 'columns webhook', 'aria-hidden': 'true' }, ['Webhook', 'Events', 'Last delivery', 'Waiting', 'Active'].map((name) => h('span', {}, name)));

/** @param {any} webhook @param {AbortSignal} signal @param {() => void} refresh */
function webhookRow(webhook, signal, refresh) {
  const { id, name, url, events, active, activity, warnings } = webhook;
  const label = (/** @type {string} */ text) => h('span', { class: 'label' }, text);
  const control = toggle(active, `Active: ${name}`, (on) => saying(async () => {
    const { data } = await ask('PATCH', webhookPath(id), { body: { active: on } });
    control.setAttribute('aria-checked', String(data.active));
    say(switched(data, activity?.waiting));
    refresh();
  }));
  control.setAttribute('data-key', 'active');
  return h('li', {},
    h('div', { class: 'webhook' },
      h('div', { class: 'who' },
        h('a', { class: 'name', href: `#/webhooks/${id}/logs`, 'data-key': 'name' }, h('bdi', {}, name)),
        h('div', { class: 'url' }, h('bdi', {}, url)),
        warnings?.map((/** @type {string} */ text) => h('div', { class: 'warn' }, icon('warning'), h('span', {}, text)))),
      h('div', { class: 'events' }, label('Events'), chips(events)),
      h('div', {}, label('Last delivery'), lastDelivery(activity)),
      h('div', {}, label('Waiting'), waiting(activity?.waiting ?? 0)),
      h('div', {}, label('Active'), control)),
    banner(webhook, signal, refresh));
}

/** @param {string[]} events */
const chips = (events) =>
  h('span', { class: 'chips', title: events.join(', ') },
    events.slice(0, CHIPS).map((type) => h('code', {}, type)),
    events.length > CHIPS && h('span', { class: 'more' }, ` +${events.length - CHIPS}`, h('span', { class: 'hidden' }, ` more: ${events.slice(CHIPS).join(', ')}`)));

/** @param {any} activity */
const lastDelivery = (activity) =>
  h('span', { class: 'last' }, outcome(activity?.last_status ?? null), activity?.last_attempt_at && h('small', { class: 'muted' }, ago(activity.last_attempt_at)));

/** @param {number} n */
const waiting = (n) => h('span', { class: n ? 'waiting' : 'muted' }, n >= MANY ? `${number(MANY)} or more` : number(n));

/** @param {any} webhook @param {number} [owed] */
export function switched({ name, active }, owed = 0) {
  if (active) return `“${name}” is active: new events are delivered from now on.`;
  return `“${name}” is inactive: nothing is sent.${owed ? ` ${count(owed, 'waiting delivery', 'waiting deliveries')} will be cancelled.` : ''}`;
}

/** What is owed after a re-enabling whose recovering failed: webhook id to the time since when. @type {Map<string, string>} */
const unrecovered = new Map();

/** The trouble a webhook is in, with the way out. @param {any} webhook @param {AbortSignal} signal @param {() => void} refresh */
export function banner(webhook, signal, refresh) {
  const { id } = webhook;
  const recover = async () => {
    const since = unrecovered.get(id) ?? webhook.failing_since ?? webhook.created_at;
    if (!webhook.active) await ask('PATCH', webhookPath(id), { body: { active: true } });
    unrecovered.set(id, since);
    try {
      const { data } = await ask('POST', `${webhookPath(id)}/recover`, { body: { since } });
      unrecovered.delete(id);
      say(`Active again. ${data.recovering ? `${count(data.recovering, 'missed delivery', 'missed deliveries')} will be sent.` : 'There was nothing to recover.'}`);
    } finally {
      refresh();
    }
  };
  const way = (/** @type {string} */ text) => {
    const own = button(text, () => busy(own, () => saying(recover)), 'primary');
    own.setAttribute('data-key', 'recover');
    return own;
  };
  if (webhook.active && unrecovered.has(id)) {
    return notice('warn', h('strong', {}, 'Active again, but what was missed is not recovered yet'), h('p', {}, way('Recover what was missed')));
  }
  const said = trouble(webhook);
  if (!said) return null;
  const text = h('span', {}, said.text);
  const since = webhook.failing_since && h('span', { class: 'muted' }, ` Failing since ${local(webhook.failing_since)}.`);
  // The reason in words stands in the log; the banner is there before it.
  if (webhook.disabled_reason !== 'gone') {
    get(`${webhookPath(id)}/deliveries?limit=1&status=failed`, signal)
      .then(({ data }) => put(text, trouble(webhook, data.data[0])?.text)).catch(() => {});
  }
  return notice(webhook.active ? 'warn' : 'bad', h('strong', {}, said.title), h('p', {}, text, since),
    webhook.active
      ? h('a', { href: `#/webhooks/${id}/logs`, 'data-key': 'why' }, 'See the failed deliveries')
      : way('Re-enable and recover what was missed'));
}
