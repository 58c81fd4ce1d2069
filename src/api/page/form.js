// The form for a webhook's fields, which shows the API's errors beside them, and the view that creates a webhook.
import { eventTypes, once, poll } from './http.js';
import { act, crumb, focus, h, icon, link, loading, notice, put, section, submit } from './dom.js';
import { sentence } from './list.js';
import { forget, guard } from './leaving.js';
import { PRIVATE, secretBox } from './secret.js';
import { snippets } from './snippets.js';

const THIS_MACHINE = /^\s*(\w+:\/\/)?(localhost|127\.\d|0\.0\.0\.0|\[::1?\])/i;

export function webhookFields(types, values) {
	const name = textField('name', 'Name', values.name, 'For example “Blog”.');
	const url = textField('url', 'URL', values.url, 'It must be reachable from the internet.',
		{ type: 'url', placeholder: 'https://hooks.your-company.com/penr' });
	const plain = h('.warn', icon('warning'), h('span', 'Not encrypted: anyone on the way can read the events. Use https.'));
	const local = h('.warn', icon('warning'), h('span', 'This is the sending machine itself. To try a receiver on your own machine, run it (or the command ',
		h('code', 'penr-webhooks listen'), ') behind a tunnel such as cloudflared or ngrok, and enter the tunnel’s URL.'));
	const warn = () => {
		plain.hidden = !/^\s*http:/i.test(url.input.value);
		local.hidden = !THIS_MACHINE.test(url.input.value);
	};
	url.input.addEventListener('input', warn);
	warn();
	url.element.append(plain, local);
	const fields = { name, url, events: eventField(types, values.events) };
	const problem = h('div', { role: 'alert' });
	const clear = () => {
		put(problem);
		for (const field of Object.values(fields)) field.says('');
	};
	const read = () => Object.fromEntries(Object.entries(fields).map(([key, field]) => [key, field.value()]));
	const now = () => JSON.stringify(read());
	let kept = now();
	return {
		element: h('div', problem, Object.values(fields).map((field) => field.element)),
		values: read,
		unsaved: () => now() !== kept,
		/** What the form holds is saved. */
		saved() { kept = now(); },
		problem,
		clear,
		/** Shows each error at its field, and moves the focus to the first. */
		show(failed) {
			clear();
			const elsewhere = [];
			for (const { field, reason } of failed.errors) {
				const own = fields[field.split(/\W/)[0]];
				if (own) own.says(reason);
				else elsewhere.push(reason);
			}
			const first = Object.values(fields).find((field) => field.bad());
			if (!first || elsewhere.length) put(problem, notice('.bad', 'Not saved', h('p', sentence(elsewhere.join(' ') || failed.message))));
			first?.focus();
		},
	};
}

/** A field with its label, a hint, and a place for what is wrong. `kind` is the name of its element. */
export function textField(id, label, value, hint, props = {}, kind = 'input') {
	const input = h(kind, { id, value, spellcheck: 'false', autocomplete: 'off', required: true, 'aria-describedby': `${id}-error ${id}-hint`, ...props });
	const error = errorLine(id);
	return {
		input, value: () => input.value.trim(),
		element: h('.field', h('label', { for: id }, label), input, error, h('p.hint', { id: `${id}-hint` }, hint)),
		...reports(error, input, input),
	};
}

const errorLine = (id) => h('p.error', { id: `${id}-error`, hidden: true });

const reports = (error, marked, target) => ({
	says(reason) {
		put(error, icon('failed'), h('span', sentence(reason)));
		error.hidden = !reason;
		if (reason) marked.setAttribute('aria-invalid', 'true');
		else marked.removeAttribute('aria-invalid');
	},
	bad: () => !error.hidden,
	focus: () => target.focus(),
});

function eventField(types, chosen) {
	const boxes = [];
	const every = h('input', { type: 'checkbox', id: 'all-events', change: () => boxes.forEach((box) => { box.checked = every.checked; }) });
	const update = () => {
		const on = boxes.filter((box) => box.checked).length;
		every.checked = on === boxes.length;
		every.indeterminate = on > 0 && !every.checked;
	};
	const choice = ({ type, name, description }) => {
		const id = `event-${type}`;
		const box = h('input', { type: 'checkbox', id, value: type, checked: chosen.includes(type), change: update, 'aria-describedby': `${id}-about` });
		boxes.push(box);
		return h('.choice', box, h('div', h('label', { for: id }, name), h('code', type), h('p.hint', { id: `${id}-about` }, description)));
	};
	const error = errorLine('events');
	const groups = {};
	for (const one of types) (groups[sentence(one.type.split('.')[0])] ??= []).push(one);
	const element = h('fieldset.field', { 'aria-describedby': 'events-error' },
		h('legend', 'Events'), error,
		h('.choice', every, h('label', { for: 'all-events' }, 'Select all')),
		h('.groups', Object.entries(groups).map(([group, members]) => h('fieldset.group', h('legend', group), members.map(choice)))));
	update();
	return { element, value: () => boxes.filter((box) => box.checked).map((box) => box.value), ...reports(error, element, boxes[0] ?? every) };
}

/** A form that calls `save`. If that fails, shows the errors in the fields, unless `refused` handles them. */
export function webhookForm(fields, actions, save, refused = () => false) {
	const control = submit('Save');
	const attempt = () => save().catch(async (problem) => {
		if (problem.status === 401 || problem.name === 'AbortError') throw problem;
		if (await refused(problem, attempt) === false) fields.show(problem);
	});
	const send = () => act(control, attempt);
	const element = h('form', { novalidate: true, submit: (event) => { event.preventDefault(); send(); } }, fields.element, h('.actions', actions, control));
	return { element, send };
}

export function createView(main, signal) {
	document.title = 'Create Webhook';
	const body = h('div', loading());
	put(main, crumb(), h('h1', { tabindex: -1 }, 'Create Webhook'), body);
	poll(body, 0, signal, async () => {
		const fields = webhookFields(await eventTypes(signal), { name: '', url: '', events: [] });
		const create = once();
		guard(signal, fields.unsaved);
		const save = async () => created(await create('/webhooks', fields.values()));
		put(body, h('.card', webhookForm(fields, link('Cancel', ''), save).element));
	});

	function created({ id, name, secret, warnings }) {
		if (signal.aborted) return;
		forget();
		document.title = 'Webhook created';
		signal.addEventListener('abort', () => { secret = ''; });
		const heading = h('h1', { tabindex: -1 }, 'Webhook created');
		put(main, crumb(), heading,
			h('p.muted', h('bdi', name), ' is active. Verify each request with its secret.'),
			warnings.map((text) => h('p.warn', icon('warning'), h('span', sentence(text)))),
			section('Signing secret', secretBox(() => secret, signal), h('p.hint', PRIVATE)),
			snippets(),
			h('.actions', link('Go to the webhook', `/${id}/logs`), link('Send a test', `/${id}/test`, '.primary')));
		scrollTo(0, 0);
		focus(heading);
	}
}
