// The list of all webhooks, refreshed while it is open.
import { eventTypes, poll } from './http.js';
import { announce, arrange, block, columns, empty, focus, h, heading, icon, link, put, sentence } from './dom.js';
import { MANY, number, outcome, time } from './words.js';
import { PLACE, activeSwitch, all, appearance, banner, look } from './switch.js';

const EVERY_MS = 5000;
const CHIPS = 2;

export function listView(main, signal) {
	const body = h('div'), list = h('ul.card.webhooks', { 'aria-label': 'Webhooks' });
	put(main,
		h('header.head',
			h('div', heading('Webhooks'), h('p.muted', 'Signed POST requests to your server when something happens.')),
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
		arrange(list, order);
		if (!order.length) {
			if (!body.querySelector('a.primary')) put(body, nothing(await eventTypes(signal)));
		} else if (!list.isConnected) put(body, columns('webhook', 'Webhook', 'Events', 'Last delivery', 'Waiting', 'Active'), list);
		const fresh = webhooks.filter(({ id }) => before && !before.has(id));
		if (fresh.length) announce(`New in the list: ${fresh.map(({ name }) => name).join(', ')}.`);
		if (held.isConnected) return;
		const row = rows.get(held.closest('li')?.dataset.id)?.row;
		focus(row?.querySelector(`[data-key=${held.dataset.key}]`) ?? (row ?? main).querySelector(PLACE));
	});
}

function nothing([{ type, example }]) {
	const event = { id: 'evt_01JD2Y', type, timestamp: '2026-11-23T10:00:00Z', data: example };
	return empty('No webhooks yet',
		h('p', 'Create one, and each event comes to your server as a POST request with a body like this one:'),
		block('Example of an event', JSON.stringify(event, null, 2)),
		h('p', 'Code that verifies requests comes with the new webhook. Programs can do all this, too: ',
			h('a', { href: '../v1/openapi.json', target: '_blank', rel: 'noopener' }, 'API documentation (OpenAPI)'), '.'),
		link('Create your first webhook', '/new', '.primary'));
}

function webhookRow(webhook, refresh) {
	// The activity is missing if the webhook was deleted while the list was read.
	const { id, name, url, events, active, failing, failing_since: since, held_since: held, warnings, activity = {} } = webhook;
	const { last_status: status, last_attempt_at: at, last_error: error, last_error_detail: detail, last_http_status: code, waiting } = activity;
	const cell = (label, ...content) => h('div', h('span.label', label), content);
	return h('li', { 'data-id': id },
		h('.webhook',
			h('.who',
				h('a.name', { href: `#/webhooks/${id}/logs`, 'data-key': 'name' }, h('bdi', name)),
				h('.address', warnings.map(triangle), h('.url', h('bdi', url)))),
			h('.events', h('span.label', 'Events'), chips(events)),
			cell('Last delivery', h('span.last', outcome(status), at && h('small.muted', time(at)),
				active && (held || (since && !failing && waiting > 0)) && h('small.muted', held ? 'On hold' : 'Retrying'))),
			cell('Waiting', waiting ? queue(id, waiting) : h('span.muted', 0)),
			cell('Active', activeSwitch(webhook, `Active: ${name}`, refresh))),
		banner(webhook, error && { error, error_detail: detail, http_status: code }, refresh));
}

/** The full sentence stands on the webhook's own page. */
const triangle = (text) => h('span.warn', { title: sentence(text) }, icon('warning'), h('span.hidden', `${sentence(text)}. `));

const queue = (id, waiting) => h('a.waiting', { href: `#/webhooks/${id}/logs?view=deliveries&state=pending`, 'data-key': 'waiting' },
	number(waiting), waiting >= MANY && '+', h('span.hidden', ' waiting: show them'));

const chips = (events) => h('span.chips', { title: events.join(', ') },
	events.slice(0, CHIPS).map((type) => h('code', type)),
	events.length > CHIPS && h('span', `+${events.length - CHIPS}`, h('span.hidden', ` more: ${events.slice(CHIPS).join(', ')}`)));
