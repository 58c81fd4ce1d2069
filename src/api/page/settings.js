// What the owner of a webhook changes: its fields, its secret, its existence.
import { ask, eventTypes, get, poll, webhookPath } from './http.js';
import { button, confirm, h, notice, put, say, section, skeleton } from './dom.js';
import { local, time } from './words.js';
import { webhookFields, webhookForm } from './form.js';
import { secretBox, snippets } from './secret.js';

const OVERLAP_HOURS = 24;
const LABELS = { name: 'Name', url: 'URL', events: 'Events' };

export function settingsTab(body, { id, signal, show }) {
	const path = webhookPath(id);
	put(body, skeleton(6));
	poll(body, 0, signal, async () => {
		const types = await eventTypes(signal);
		const edit = h('div');
		edit.append(editor(edit, types, await ask('GET', path, { signal })));
		put(body, section('Edit', edit), section('Signing secret', secret()), section('Verify requests', snippets()), section('Delete', removal()));
	});

	/** Saves only over the version that the reader has seen. */
	function editor(place, types, { data, etag }) {
		const fields = webhookFields(types, data);
		const form = webhookForm(fields, null, async () => {
			({ data, etag } = await ask('PATCH', path, { body: fields.values(), etag }));
			fields.clear();
			show(data);
			say('Saved.');
		}, async (problem) => {
			if (problem.status !== 412) return false;
			const now = await ask('GET', path, { signal });
			const changes = Object.keys(LABELS).filter((key) => String(now.data[key]) !== String(data[key]));
			const theirs = button('Discard mine, load theirs', () => { put(place, editor(place, types, now)); show(now.data); }, '.primary');
			put(fields.problem, notice('', 'Not saved: this webhook was changed meanwhile',
				h('p', 'It was saved after you had opened this form, perhaps in another tab.'),
				h('ul', changes.map((key) => h('li', `${LABELS[key]} is now: `, h('bdi', [now.data[key]].flat().join(', ')))),
					now.data.active !== data.active && h('li', now.data.active ? 'It was switched on.' : 'It was switched off.')),
				h('.actions', button('Save mine anyway', () => { etag = now.etag; return form.send(); }), theirs)));
			theirs.focus();
			return true;
		});
		return form.element;
	}

	function secret() {
		const told = h('p.hint', { role: 'status' }, 'Treat it like a password.');
		const box = secretBox(async () => (await get(`${path}/secret`, signal)).secret, signal);
		return h('div', box, told, h('.actions.start', button('Regenerate', async () => {
			const until = local(new Date(Date.now() + OVERLAP_HOURS * 3600_000));
			if (!await confirm('Regenerate the signing secret?', [
				'A new secret signs every request from now on.',
				`Until ${until} the old one stays valid in Webhook-Signature, which carries both signatures for ${OVERLAP_HOURS} hours.`,
				'X-Webhook-Signature is made with the new one only: who checks it needs the new secret at once. What is refused is tried again.',
			], 'Regenerate')) return;
			const { data } = await ask('POST', `${path}/secret/regenerate`);
			box.dispatchEvent(new Event('hide'));
			put(told, 'Regenerated. In Webhook-Signature the old secret stays valid until ', time(data.previous_valid_until), '.');
			say('Put the new secret into your receiver.');
		})));
	}

	const removal = () => h('div',
		h('.actions.start', button('Delete webhook', async () => {
			if (!await confirm('Delete this webhook?', ['Its log, its secret and all that waits for delivery are lost for ever.'], 'Delete')) return;
			await ask('DELETE', path);
			say('The webhook was deleted.');
			location.hash = '#/webhooks';
		}, '.danger')));
}
