// All webhooks of the account, kept up to date while the list is open.
import { ask, get, poll, webhookPath } from './http.js';
import { button, columns, empty, h, icon, link, notice, put, say, skeleton, toggle } from './dom.js';
import { count, local, number, outcome, time, trouble } from './words.js';

const EVERY_MS = 5000;
const CHIPS = 2;
const MANY = 1000;

export function listView(main, signal) {
	document.title = 'Webhooks';
	const body = h('div', skeleton(4));
	put(main,
		h('header.head',
			h('div', h('h1', { tabindex: -1 }, 'Webhooks'), h('p.muted', 'Signed POST requests to your server when something happens.')),
			link([icon('plus'), 'Create Webhook'], '#/webhooks/new', '.primary')), body);
	let rows = new Map();
	const refresh = poll(body, EVERY_MS, signal, async () => {
		const webhooks = await all(signal);
		const before = rows;
		rows = new Map(webhooks.map((webhook) => {
			const seen = JSON.stringify(webhook);
			const old = before.get(webhook.id);
			return [webhook.id, old?.seen === seen ? old : { seen, row: replaced(old?.row, webhookRow(webhook, signal, () => refresh())) }];
		}));
		const order = [...rows.values()].map(({ row }) => row);
		const list = body.querySelector('ul.webhooks');
		if (!order.length) put(body, nothing());
		else if (!list) put(body, columns('webhook', 'Webhook', 'Events', 'Last delivery', 'Waiting', 'Active'), h('ul.card.webhooks', { 'aria-label': 'Webhooks' }, order));
		else if (order.length !== list.children.length || order.some((row, i) => list.children[i] !== row)) put(list, order);
	});
}

/** Keeps the reader's place on the keyboard. */
function replaced(old, row) {
	const held = old?.contains(document.activeElement) && document.activeElement.dataset.key;
	old?.replaceWith(row);
	if (held) row.querySelector(`[data-key=${held}]`)?.focus();
	return row;
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
	h('p', 'Create one, and penr.ai calls your server when something happens.'),
	link('Create your first webhook', '#/webhooks/new', '.primary'));

function webhookRow(webhook, signal, refresh) {
	const { id, name, url, events, active, warnings, activity } = webhook;
	const { last_status: status = null, last_attempt_at: at, waiting = 0 } = activity ?? {};
	const cell = (label, ...content) => h('div', h('span.label', label), content);
	return h('li',
		h('.webhook',
			h('.who',
				h('a.name', { href: `#/webhooks/${id}/logs`, 'data-key': 'name' }, h('bdi', name)),
				h('.url', h('bdi', url)),
				warnings.map((text) => h('.warn', icon('warning'), h('span', sentence(text))))),
			h('.events', h('span.label', 'Events'), chips(events)),
			cell('Last delivery', h('span.last', outcome(status), at && h('small.muted', time(at)))),
			cell('Waiting', h(waiting ? 'span.waiting' : 'span.muted', number(waiting), waiting >= MANY && '+')),
			cell('Active', toggle(active, `Active: ${name}`, async (on, own) => {
				const { data } = await ask('PATCH', webhookPath(id), { body: { active: on } });
				own.ariaChecked = data.active;
				say(switched(data, waiting));
				refresh();
			}))),
		banner(webhook, signal, refresh));
}

export const sentence = (text) => text.replace(/^./, (first) => first.toUpperCase());

const chips = (events) => h('span.chips', { title: events.join(', ') },
	events.slice(0, CHIPS).map((type) => h('code', type)),
	events.length > CHIPS && h('span', `+${events.length - CHIPS}`, h('span.hidden', ` more: ${events.slice(CHIPS).join(', ')}`)));

export function switched({ name, active }, waiting = 0) {
	if (active) return `“${name}” is active.`;
	return `“${name}” is inactive: nothing is sent.${waiting ? ` ${count(waiting, 'waiting delivery', 'waiting deliveries')} will be cancelled.` : ''}`;
}

/** Since when re-enabled webhooks are owed deliveries. */
const unrecovered = new Map();

export function banner(webhook, signal, refresh) {
	const { id, active, failing_since: failing } = webhook;
	const way = (text) => button(text, async (own) => {
		const since = unrecovered.get(id) ?? failing ?? webhook.created_at;
		if (!active) await ask('PATCH', webhookPath(id), { body: { active: true } });
		unrecovered.set(id, since);
		try {
			const { data: { recovering } } = await ask('POST', `${webhookPath(id)}/recover`, { body: { since } });
			unrecovered.delete(id);
			own.closest('.notice').remove();
			say(recovering ? `Active again. ${count(recovering, 'missed delivery', 'missed deliveries')} will be sent.` : 'Active again. Nothing was missed.');
		} finally {
			refresh();
		}
	}, '.primary', { 'data-key': 'recover' });
	if (active && unrecovered.has(id)) return notice('', 'What was missed is not recovered yet', h('p', way('Recover what was missed')));
	const said = trouble(webhook);
	if (!said) return null;
	const text = h('span', said[1]);
	if (webhook.disabled_reason !== 'gone') {
		get(`${webhookPath(id)}/deliveries?limit=1&status=failed`, signal).then(({ data }) => put(text, trouble(webhook, data[0])[1])).catch(() => {});
	}
	return notice(active ? '' : '.bad', said[0], h('p', text, failing && ` Failing since ${local(failing)}.`),
		active ? h('a', { href: `#/webhooks/${id}/logs`, 'data-key': 'why' }, 'See the failed deliveries') : way('Re-enable and recover what was missed'));
}
