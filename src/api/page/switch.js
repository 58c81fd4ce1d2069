// Switches webhooks off and on. Asks before deliveries are cancelled, and offers afterwards to send what was missed.
import { ask, get, webhookPath } from './http.js';
import { act, button, confirm, focus, h, icon, notice, say } from './dom.js';
import { count, failure, time, trouble, waits } from './words.js';

/** Gets the focus when the control that had it has gone. */
export const PLACE = 'h1, .name';
/** How often to look for what was missed. What waited is cancelled some seconds after the switch. */
const LOOKS = 10;

/** For webhooks that were switched on: since when they missed something, whether we had disabled them, how much was found, how often more to look. */
const missed = new Map();

/** Where the time is not known, that of the last change stands for it. */
const lastOn = ({ disabled_reason: reason, failing_since: failing, inactive_since: off, updated_at: changed }) => (reason && failing) || off || changed;

/** All webhooks of the account, with their activity. */
export async function all(signal) {
	const webhooks = [];
	for (let cursor = ''; cursor !== null;) {
		const page = await get(`/webhooks?include=activity${cursor && `&cursor=${encodeURIComponent(cursor)}`}`, signal);
		webhooks.push(...page.data);
		cursor = page.next_cursor;
	}
	return webhooks;
}

/** How many deliveries wait. */
export const waitingOf = async ({ id }) => (await get(`${webhookPath(id)}?include=activity`)).activity?.waiting;

/** Switches a webhook without a question. Resolves to the webhook as it is then. */
export async function activate(webhook, active) {
	const { id } = webhook, before = missed.get(id);
	const { since, disabled } = before?.found ? before : { since: lastOn(webhook), disabled: webhook.disabled_reason };
	const now = await ask('PATCH', webhookPath(id), { body: { active } });
	if (active) missed.set(id, { since, disabled, found: 0, looks: LOOKS });
	return now;
}

/** The control that switches a webhook. `show` gets the webhook as it is afterwards. */
export function activeSwitch(webhook, label, show) {
	const { id, name, active } = webhook;
	const change = async () => {
		const on = own.getAttribute('aria-checked') !== 'true';
		const waiting = on ? 0 : await waitingOf(webhook);
		const sure = !waiting || await confirm(`Switch off “${name}”?`, [
			`${waits(waiting)} and will be cancelled.`,
			'Events are not kept for a webhook while it is inactive.',
			'When you switch it on again, you can still have the cancelled deliveries sent.',
		], 'Switch off', 'Keep it on');
		// The view may have been drawn again behind the question.
		if (!own.isConnected) focus(document.querySelector(`[data-webhook="${id}"]`));
		if (!sure) return;
		const now = await activate(webhook, on);
		own.setAttribute('aria-checked', now.active);
		say(`“${now.name}” is ${now.active ? 'active.' : 'inactive: nothing is sent, and events are not kept for it.'}`);
		show(now);
	};
	const own = h('button.switch', { type: 'button', role: 'switch', 'aria-checked': String(active), 'aria-label': label, 'data-key': 'active', 'data-webhook': id,
		click: () => act(own, change) });
	return own;
}

/** To be called for each webhook that was read anew: counts what it has missed. */
export async function look({ id, active }, signal) {
	const one = missed.get(id);
	if (!active || !one?.looks) return;
	try {
		one.found = (await get(`${webhookPath(id)}/recover?since=${encodeURIComponent(one.since)}`, signal)).count;
		one.looks = one.found ? LOOKS : one.looks - 1;
	} catch (problem) {
		if (signal.aborted) throw problem;
	}
}

/** Everything that a view of the webhook shows. It is drawn again when this changes. */
export const appearance = (webhook, last) => JSON.stringify([webhook, last, missed.get(webhook.id)?.found]);

/** What a webhook has missed and what is wrong with it, with the way out. `last` is its last failed attempt. */
export function banner(webhook, last, refresh) {
	const { id, name, active, failing_since: since } = webhook, { found, disabled } = missed.get(id) ?? {}, said = trouble(webhook, last);
	/** A button in a notice, which is gone once the button's work is done. */
	const way = (key, text, work, kind) => button(text, async (own) => {
		try {
			await work(webhook);
			if (document.activeElement === own) focus(own.closest('li, main').querySelector(PLACE));
			own.closest('.notice').remove();
		} finally {
			await refresh();
		}
	}, kind, { 'data-key': key, 'aria-label': `${text}: ${name}` });
	return [
		active && found > 0 && notice('', disabled ? `${count(found, 'delivery')} ${found === 1 ? 'was' : 'were'} missed while it was off` : `${count(found, 'cancelled delivery')} can be sent`,
			!disabled && h('p', 'Events while it was off were not kept.'), h('.actions.start',
			way('recover', 'Recover what was missed', recover, '.primary'), way('leave', 'Leave it', () => missed.delete(id)))),
		said && notice(active ? '' : '.bad', said[0], h('p', said[1]), since && h('p', 'Failing since ', time(since), '.'), active
			? h('a', { href: `#/webhooks/${id}/logs?view=deliveries&state=undelivered`, 'data-key': 'why' }, 'See the failed deliveries', h('span.hidden', ` of ${name}`))
			: way('recover', 'Re-enable and recover what was missed', recover, '.primary')),
	];
}

async function recover(webhook) {
	const { id, active } = webhook;
	if (!active) await activate(webhook, true);
	const { recovering } = await ask('POST', `${webhookPath(id)}/recover`, { body: { since: missed.get(id).since } });
	if (recovering) missed.delete(id);
	say(`${active ? '' : 'Active again. '}${recovering ? `${count(recovering, 'missed delivery')} will be sent.` : 'Nothing was found to recover.'}`);
}

/** What is said quietly: of a webhook that is off, on hold, or whose last attempt failed, before that is an alarm. */
export function aside({ active, disabled_reason: reason, inactive_since: off, held_since: held, failing, failing_since: since }, last) {
	if (!active && !reason) return h('p.calm.muted', icon('none'), h('span', 'Inactive', off && [' since ', time(off)], ': events are not kept for it.'));
	if (active && held) return h('p.calm.muted', icon('none'), h('span', 'On hold since ', time(held), ': deliveries wait and nothing is lost.'));
	if (!active || failing || !since || !last) return null;
	const { next_attempt_at: next } = last;
	return h('p.calm.muted', icon('retry'), h('span', `The last attempt failed: ${failure(last).join(' ')}`,
		new Date(next) > Date.now() && [' Retrying, next at ', time(next), '.']));
}
