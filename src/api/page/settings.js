// The tab Settings: edits a webhook, regenerates its secret, deletes it.
import { ask, eventTypes, get, once, poll } from './http.js';
import { button, confirm, h, loading, notice, put, say, section } from './dom.js';
import { time } from './words.js';
import { webhookFields, webhookForm } from './form.js';
import { PRIVATE, secretBox, snippets } from './secret.js';

const LABELS = { name: 'Name', url: 'URL', events: 'Events' };

export function settingsTab(body, { path, signal, show }) {
	put(body, loading());
	poll(body, 0, signal, async () => {
		const types = await eventTypes(signal);
		const edit = h('div');
		edit.append(editor(edit, types, await get(path, signal)));
		put(body, section('Edit', edit), section('Signing secret', secret()), snippets(), section('Delete', removal()));
	});

	/** A form that saves only if the webhook's version is still the one that the reader has seen. */
	function editor(place, types, data) {
		let { version } = data;
		const fields = webhookFields(types, data);
		const form = webhookForm(fields, null, async () => {
			// From the body, not from the header ETag, which a proxy may have changed or dropped.
			data = await ask('PATCH', path, { body: fields.values(), ifMatch: `"${version}"` });
			({ version } = data);
			fields.clear();
			show(data);
			say('Saved.');
		}, async (problem, again) => {
			if (problem.status !== 412) return false;
			const now = await get(path, signal);
			const changes = Object.keys(LABELS).filter((key) => String(now[key]) !== String(data[key]));
			// No field of this form differs from what the reader has seen.
			if (!changes.length && version !== now.version) {
				({ version } = now);
				return again();
			}
			const focus = () => place.querySelector('#name').focus();
			const theirs = button('Discard mine, load theirs', () => {
				put(place, editor(place, types, now));
				show(now);
				focus();
			}, '.primary');
			put(fields.problem, notice('', 'Not saved: this webhook was changed meanwhile',
				h('ul', changes.map((key) => h('li', `${LABELS[key]} is now: `, h('bdi', [now[key]].flat().join(', ')))),
					now.active !== data.active && h('li', `It was switched ${now.active ? 'on' : 'off'}.`)),
				h('.actions.start', button('Save mine anyway', async () => {
					({ version } = now);
					await form.send();
					if (document.activeElement === document.body) focus();
				}), theirs)));
			theirs.focus();
			return true;
		});
		return form.element;
	}

	function secret() {
		const regenerate = once();
		const told = h('p.hint', { role: 'status' }, PRIVATE);
		const box = secretBox(async () => (await get(`${path}/secret`, signal)).secret, signal);
		return h('div', box, told, h('.actions.start', button('Regenerate', async () => {
			if (!await confirm('Regenerate the signing secret?', [
				'A new secret signs every request from now on.',
				'For 24 hours the old one stays valid in Webhook-Signature, which carries both signatures.',
				'X-Webhook-Signature is made with the new one alone: receivers that check it need the new secret at once. What they refuse is tried again.',
			], 'Regenerate')) return;
			const { previous_valid_until: until } = await regenerate(`${path}/secret/regenerate`);
			box.dispatchEvent(new Event('hide'));
			put(told, 'Regenerated. In Webhook-Signature the old secret stays valid until ', time(until), '.');
			say('Put the new secret into your receiver.');
		})));
	}

	const removal = () => h('.actions.start', button('Delete webhook', async () => {
		if (!await confirm('Delete this webhook?', ['Its log, its secret and all that waits for delivery are lost for ever.'], 'Delete')) return;
		await ask('DELETE', path);
		say('The webhook was deleted.');
		location.hash = '#/webhooks';
	}, '.danger'));
}
