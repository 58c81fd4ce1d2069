// The list of all webhooks, refreshed while it is open.
import { ask, get, poll, webhookPath } from './http.js';
import { button, columns, empty, focus, h, icon, link, loading, notice, put, say, toggle } from './dom.js';
import { count, number, outcome, time, trouble } from './words.js';

const EVERY_MS = 5000;
const CHIPS = 2;
const MANY = 1000;
/** Gets the focus when the control that had it has gone. */
const PLACE = 'h1, .name';

export function listView(main, signal) {
	document.title = 'Webhooks';
	const body = h('div', loading());
	put(main,
		h('header.head',
			h('div', h('h1', { tabindex: -1 }, 'Webhooks'), h('p.muted', 'Signed POST requests to your server when something happens.')),
			link([icon('plus'), 'Create Webhook'], '/new', '.primary')), body);
	let rows = new Map();
	const refresh = poll(body, EVERY_MS, signal, async () => {
		const webhooks = await all(signal);
		const before = rows, held = document.activeElement;
		rows = new Map(webhooks.map((webhook) => {
			const seen = appearance(webhook), old = before.get(webhook.id);
			return [webhook.id, old?.seen === seen ? old : { seen, row: webhookRow(webhook, signal, () => refresh()) }];
		}));
		const order = [...rows.values()].map(({ row }) => row);
		const list = body.querySelector('ul.webhooks');
		if (!order.length) {
			if (!body.querySelector('a.primary')) put(body, nothing());
		} else if (list) arrange(list, order);
		else put(body, columns('webhook', 'Webhook', 'Events', 'Last delivery', 'Waiting', 'Active'), h('ul.card.webhooks', { 'aria-label': 'Webhooks' }, order));
		if (held.isConnected) return;
		const row = rows.get(held.closest('li')?.dataset.id)?.row;
		focus(row?.querySelector(`[data-key=${held.dataset.key}]`) ?? (row ?? main).querySelector(PLACE));
	});
}

/** Puts the rows into this order. Rows that stay are not touched, so that they keep the focus. */
function arrange(list, rows) {
	for (const row of [...list.children]) if (!rows.includes(row)) row.remove();
	rows.forEach((row, i) => list.children[i] === row || list.insertBefore(row, list.children[i] ?? null));
}

async function all(signal) {
	const webhooks = [];
	for (let cursor = ''; cursor !== null;) {
		const page = await get(`/webhooks?include=activity${cursor && `&cursor=${encodeURIComponent(cursor)}`}`, signal);
		webhooks.push(...page.data);
		cursor = page.next_cursor;
	}
	return webhooks;
}

const nothing = () => empty('No webhooks yet',
	h('p', 'Create one, and penr.ai calls your server.'),
	link('Create your first webhook', '/new', '.primary'));

function webhookRow(webhook, signal, refresh) {
	const { id, name, url, events, active, warnings, activity } = webhook;
	const { last_status: status = null, last_attempt_at: at, waiting = 0 } = activity ?? {};
	const cell = (label, ...content) => h('div', h('span.label', label), content);
	return h('li', { 'data-id': id },
		h('.webhook',
			h('.who',
				h('a.name', { href: `#/webhooks/${id}/logs`, 'data-key': 'name' }, h('bdi', name)),
				h('.url', h('bdi', url)),
				warnings.map((text) => h('.warn', icon('warning'), h('span', sentence(text))))),
			h('.events', h('span.label', 'Events'), chips(events)),
			cell('Last delivery', h('span.last', outcome(status), at && h('small.muted', time(at)))),
			cell('Waiting', h(waiting ? 'span.waiting' : 'span.muted', number(waiting), waiting >= MANY && '+')),
			cell('Active', toggle(active, `Active: ${name}`, async (on, own) => {
				const now = await activate(webhook, on);
				own.ariaChecked = now.active;
				say(switched(now, waiting));
				refresh();
			}))),
		banner(webhook, signal, refresh));
}

export const sentence = (text) => text.replace(/^./, (first) => first.toUpperCase());

const chips = (events) => h('span.chips', { title: events.join(', ') },
	events.slice(0, CHIPS).map((type) => h('code', type)),
	events.length > CHIPS && h('span', `+${events.length - CHIPS}`, h('span.hidden', ` more: ${events.slice(CHIPS).join(', ')}`)));

export function switched({ name, active }, waiting = 0) {
	const cancelled = waiting ? ` ${count(waiting, 'waiting delivery')} will be cancelled.` : '';
	return `“${name}” is ${active ? 'active.' : `inactive: nothing is sent.${cancelled}`}`;
}

/** For webhooks that were re-enabled and not recovered yet: since when deliveries were missed. The API does not keep this. */
const unrecovered = new Map();

const missedSince = (one) => unrecovered.get(one.id) ?? one.failing_since ?? one.updated_at;

export async function activate(webhook, active) {
	if (webhook.disabled_reason) unrecovered.set(webhook.id, missedSince(webhook));
	return ask('PATCH', webhookPath(webhook.id), { body: { active } });
}

export const appearance = (webhook) => JSON.stringify([webhook, unrecovered.has(webhook.id)]);

export function banner(webhook, signal, refresh) {
	const { id, active, failing_since: failing } = webhook;
	const since = missedSince(webhook);
	const way = (text) => button(text, async (own) => {
		try {
			if (!active) await activate(webhook, true);
			const { recovering } = await ask('POST', `${webhookPath(id)}/recover`, { body: { since } });
			unrecovered.delete(id);
			if (document.activeElement === own) focus(own.closest('li, main').querySelector(PLACE));
			own.closest('.notice').remove();
			say(recovering ? `Active again. ${count(recovering, 'missed delivery')} will be sent.` : 'Active again. Nothing was missed.');
		} finally {
			refresh();
		}
	}, '.primary', { 'data-key': 'recover' });
	if (active && unrecovered.has(id)) return notice('', 'What was missed is not recovered yet', way('Recover what was missed'));
	const said = trouble(webhook);
	if (!said) return null;
	const text = h('p', said[1]);
	if (webhook.disabled_reason !== 'gone') {
		get(`${webhookPath(id)}/deliveries?limit=1&status=failed`, signal).then(({ data }) => put(text, trouble(webhook, data[0])[1])).catch(() => {});
	}
	return notice(active ? '' : '.bad', said[0], text, failing && h('p', 'Failing since ', time(failing), '.'),
		active ? h('a', { href: `#/webhooks/${id}/logs`, 'data-key': 'why' }, 'See the failed deliveries') : way('Re-enable and recover what was missed'));
}
