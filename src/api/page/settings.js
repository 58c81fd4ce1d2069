// The tab Settings: edits a webhook, regenerates its secret, checks signatures, deletes it.
import { ask, eventTypes, get, once, poll } from './http.js';
import { button, confirm, focus, h, notice, put, say, section, select } from './dom.js';
import { time, waits } from './words.js';
import { waitingOf } from './switch.js';
import { checker, span } from './checker.js';
import { forget, webhookFields, webhookForm } from './form.js';
import { FORMS, secretBox, snippets } from './signing.js';

const LABELS = { name: 'Name', url: 'URL', events: 'Events', headers: 'Request headers', max_per_second: 'Requests a second at most' };
/** A field's value as text; of headers their names. */
const told = (value) => (value?.constructor === Object ? Object.keys(value) : [value].flat()).join(', ') || 'none';
/** How long the old secret may go on, as the API takes it. */
const GRACES = [['24h', '24 hours'], ['6h', '6 hours'], ['1h', '1 hour'], ['10m', '10 minutes'], ['0s', 'no time: it has leaked']];
const NEXT = 'Put the new secret into your receiver, check it with Test, then end the old one.';
/** How often the time that is left is written anew. */
const EVERY_MS = 30_000;

export function settingsTab(body, { path, signal, webhook, show, onChange }) {
	poll(body, 0, signal, async () => {
		const types = await eventTypes(signal), edit = h('div');
		put(edit, editor(edit, types, await get(path, signal)));
		put(body, section('Edit', edit), section('Signing secret', secret()), snippets(), checker(ownSecret, { signal, webhook }), section('Delete', removal()));
	});

	/** A form that saves only if the webhook's version is still the one that the reader has seen. */
	function editor(place, types, data) {
		let { version } = data;
		const fields = webhookFields(types, data);
		const toName = () => place.querySelector('#name').focus();
		return webhookForm(fields, signal, null, async () => {
			// From the body, not from the header ETag, which a proxy may have changed or dropped.
			data = await ask('PATCH', path, { body: fields.values(), headers: { 'If-Match': `"${version}"` } });
			({ version } = data);
			fields.saved(data);
			show(data);
			say('Saved.');
		}, async (problem, again) => {
			if (problem.status !== 412) return fields.show(problem);
			const now = await get(path, signal);
			const changes = Object.keys(LABELS).filter((key) => told(now[key]) !== told(data[key]));
			const overwrite = () => {
				({ version } = now);
				return again();
			};
			if (!changes.length && version !== now.version) {
				// No field of this form differs from what the reader has seen; but a header may have another value.
				if (now.active !== data.active || !fields.values().headers) return overwrite();
				changes.push('headers');
			}
			const theirs = button('Discard mine, load theirs', () => {
				put(place, editor(place, types, now));
				show(now);
				toName();
			}, '.primary');
			put(fields.problem, notice('', 'Not saved: this webhook was changed meanwhile',
				h('ul', changes.map((key) => h('li', `${LABELS[key]} is now: `, h('bdi', told(now[key])))),
					now.active !== data.active && h('li', `It was switched ${now.active ? 'on' : 'off'}.`)),
				h('.actions.start', button('Save mine anyway', async () => {
					await overwrite();
					if (document.activeElement === document.body) toName();
				}), theirs)));
			theirs.focus();
		});
	}

	async function ownSecret() {
		return (await get(`${path}/secret`, signal)).secret;
	}

	function secret() {
		const regenerate = once(), box = secretBox(ownSecret, signal);
		const change = button('Regenerate', async () => {
			const grace = select({ id: 'grace' }, GRACES);
			if (!await confirm('Regenerate the signing secret?', [
				`A new secret signs every request from now on. ${NEXT}`,
				...FORMS.map(([, name, effect]) => [h('strong', name), ': ', effect]),
				[h('label', { for: 'grace' }, 'Keep the old secret for '), grace],
			], 'Regenerate')) return;
			const { previous_valid_until: until } = await regenerate(`${path}/secret/regenerate`, { grace: grace.value });
			box.dispatchEvent(new Event('hide'));
			show({ ...webhook(), previous_valid_until: grace.value === '0s' ? null : until });
			say('Regenerated. Copy the new secret into your receiver.');
		});
		return [box, oldSecret(change), h('.actions.start', change)];
	}

	/** Until when the old secret is valid beside the new one. */
	function oldSecret(next) {
		const said = h('span');
		const line = h('.actions.start', said, button('End now', async () => {
			if (!await confirm('End the old secret now?', ['Receivers that still have it refuse requests until they have the new one. These are tried again.'], 'End now')) return;
			await ask('DELETE', `${path}/secret/previous`);
			show({ ...webhook(), previous_valid_until: null });
			focus(next);
			say('The old secret has ended.');
		}, '.small'));
		const update = () => {
			const until = webhook().previous_valid_until;
			const minutes = Math.ceil((new Date(until) - Date.now()) / 60_000);
			line.hidden = !until || minutes <= 0;
			if (line.hidden) return;
			put(said, 'The old secret stays valid in ', h('code', 'Webhook-Signature'), ' until ', time(until), ` (${span(minutes)}). ${NEXT}`);
		};
		onChange(poll(line, EVERY_MS, signal, update));
		return line;
	}

	const removal = () => h('.actions.start', button('Delete webhook', async () => {
		const waiting = await waitingOf(webhook());
		if (!await confirm(`Delete “${webhook().name}”?`, [
			waiting > 0 && `${waits(waiting)} and will be cancelled.`,
			'Nobody can read its log or its secret any more. This cannot be undone.',
			'The log is erased when its time of keeping is over.',
		], 'Delete')) return;
		await ask('DELETE', path);
		forget();
		// After the change of the view, which clears messages.
		addEventListener('hashchange', () => say('The webhook was deleted.'), { once: true });
		location.hash = '#/webhooks';
	}, '.danger'));
}
