// The list of all webhooks, refreshed while it is open.
import { eventTypes, poll } from './http.js';
import { announce, block, columns, empty, focus, h, icon, link, loading, put } from './dom.js';
import { MANY, number, outcome, time } from './words.js';
import { PLACE, activeSwitch, all, appearance, banner, look } from './switch.js';

const EVERY_MS = 5000;
const CHIPS = 2;

export function listView(main, signal) {
	document.title = 'Webhooks';
	const body = h('div', loading());
	put(main,
		h('header.head',
			h('div', h('h1', { tabindex: -1 }, 'Webhooks'), h('p.muted', 'Signed POST requests to your server when something happens.')),
			link([icon('plus'), 'Create Webhook'], '/new', '.primary')), body);
	let rows;
	const refresh = poll(body, EVERY_MS, signal, async () => {
		const webhooks = await all(signal);
		await Promise.all(webhooks.map((webhook) => look(webhook, signal)));
		const before = rows, held = document.activeElement;
		rows = new Map(webhooks.map((webhook) => {
			const seen = appearance(webhook), old = before?.get(webhook.id);
			return [webhook.id, old?.seen === seen ? old : { seen, row: webhookRow(webhook, () => refresh()) }];
		}));
		const order = [...rows.values()].map(({ row }) => row);
		const list = body.querySelector('ul.webhooks');
		if (!order.length) {
			if (!body.querySelector('a.primary')) put(body, nothing(await eventTypes(signal)));
		} else if (list) arrange(list, order);
		else put(body, columns('webhook', 'Webhook', 'Events', 'Last delivery', 'Waiting', 'Active'), h('ul.card.webhooks', { 'aria-label': 'Webhooks' }, order));
		const fresh = webhooks.filter(({ id }) => before && !before.has(id));
		if (fresh.length) announce(`New in the list: ${fresh.map(({ name }) => name).join(', ')}.`);
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

function nothing([{ type, example }]) {
	const event = { id: 'evt_01JD2Y', type, timestamp: '2026-11-23T10:00:00Z', data: example };
	return empty('No webhooks yet',
		h('p', 'Create one, and penr.ai calls your server. Each event is a POST request with a body like this one:'),
		block('Example of an event', JSON.stringify(event, null, 2)),
		h('p', 'Code that verifies requests comes with the new webhook. What else this service can do is described in its ',
			h('a', { href: '../v1/openapi.json', target: '_blank', rel: 'noopener' }, 'API documentation (OpenAPI)'), '.'),
		link('Create your first webhook', '/new', '.primary'));
}

function webhookRow(webhook, refresh) {
	// The activity is missing if the webhook was deleted while the list was read.
	const { id, name, url, events, active, failing, failing_since: since, warnings, activity = {} } = webhook;
	const { last_status: status, last_attempt_at: at, waiting } = activity;
	const cell = (label, ...content) => h('div', h('span.label', label), content);
	return h('li', { 'data-id': id },
		h('.webhook',
			h('.who',
				h('a.name', { href: `#/webhooks/${id}/logs`, 'data-key': 'name' }, h('bdi', name)),
				h('.address', warnings.map(warning), h('.url', h('bdi', url)))),
			h('.events', h('span.label', 'Events'), chips(events)),
			cell('Last delivery', h('span.last', outcome(status), at && h('small.muted', time(at)),
				active && since && !failing && waiting > 0 && h('small.muted', 'Retrying'))),
			cell('Waiting', waiting ? queue(id, waiting) : h('span.muted', 0)),
			cell('Active', activeSwitch(webhook, `Active: ${name}`, refresh))),
		banner(webhook, lastFailure(activity), refresh));
}

const lastFailure = ({ last_error: error, last_error_detail: detail, last_http_status: status }) =>
	error && { error, error_detail: detail, http_status: status };

/** The full sentence stands on the webhook's own page. */
const warning = (text) => h('span.warn', { title: sentence(text) }, icon('warning'), h('span.hidden', `${sentence(text)}. `));

const queue = (id, waiting) => h('a.waiting', { href: `#/webhooks/${id}/logs?view=deliveries&state=pending`, 'data-key': 'waiting' },
	number(waiting), waiting >= MANY && '+', h('span.hidden', ' waiting: show them'));

export const sentence = (text) => text.replace(/^./, (first) => first.toUpperCase());

const chips = (events) => h('span.chips', { title: events.join(', ') },
	events.slice(0, CHIPS).map((type) => h('code', type)),
	events.length > CHIPS && h('span', `+${events.length - CHIPS}`, h('span.hidden', ` more: ${events.slice(CHIPS).join(', ')}`)));
