// The form for a webhook's fields: shows the API's errors beside them, and is not left unsaved without a question. The view that
// creates a webhook.
import { eventTypes, once, poll } from './http.js';
import { begin, confirm, crumb, form, h, heading, icon, link, notice, put, section, sentence, submit, warning, warnings } from './dom.js';
import { secretBox, snippets } from './signing.js';

/** The hosts that are the machine itself. */
const THIS_MACHINE = /^((.*\.)?localhost|127(\.\d+){3}|0\.0\.0\.0|\[::1?\])$/;

function hostOf(url) {
	try {
		return new URL(url.replace(/^(?!\w+:\/\/)/, 'https://')).hostname;
	} catch {
		return '';
	}
}

export function webhookFields(types, values = { events: [] }) {
	const fields = {
		name: textField('name', 'Name', values.name, 'For example “Blog”.'),
		url: textField('url', 'URL', values.url, 'It must be reachable from the internet.', { type: 'url', placeholder: 'https://hooks.your-company.com/penr' }),
		events: eventField(types, values.events),
	};
	// Of a URL that is saved its webhook's warnings tell.
	const isNew = (url) => url !== values.url;
	warnOf(fields.url, (url) => isNew(url) && /^http:/i.test(url), 'Not encrypted: anyone on the way can read the events. Use https.');
	warnOf(fields.url, (url) => THIS_MACHINE.test(hostOf(url)), 'This is the sending machine itself. To receive on your own, run your receiver (or ',
		h('code', 'penr-webhooks listen'), ') behind a tunnel (cloudflared, ngrok) and enter its URL.');
	const all = Object.values(fields), problem = h('div', { role: 'alert' });
	const clear = () => {
		put(problem);
		for (const field of all) field.says('');
	};
	const read = () => Object.fromEntries(Object.entries(fields).map(([key, field]) => [key, field.value()]));
	const now = () => JSON.stringify(read());
	const element = h('div', problem, all.map((field) => field.element));
	let kept = now();
	return {
		element, values: read,
		unsaved: () => now() !== kept,
		/** What the form holds is saved. */
		saved() {
			clear();
			kept = now();
			values = read();
			fields.url.input.dispatchEvent(new Event('input'));
		},
		problem,
		/** Shows each error at its field, and moves the focus to the first. */
		show(failed) {
			clear();
			const elsewhere = [];
			for (const { field, reason } of failed.errors) {
				const own = fields[field.split(/\W/)[0]];
				if (own) own.says(reason);
				else elsewhere.push(reason);
			}
			const first = element.querySelector('[aria-invalid=true]');
			if (!first || elsewhere.length) put(problem, notice('.bad', 'Not saved', h('p', sentence(elsewhere.join(' ') || failed.message))));
			(first?.querySelector('input') ?? first)?.focus();
		},
	};
}

/** Shows a warning below a field while `applies` to its text. */
function warnOf({ input, value, element }, applies, ...text) {
	const line = warning(...text);
	const update = () => { line.hidden = !applies(value()); };
	input.addEventListener('input', update);
	update();
	element.append(line);
}

/** A field with its label, a hint, and a place for what is wrong. `kind` is the name of its element. */
export function textField(id, label, value, hint, props = {}, kind = 'input') {
	const input = h(kind, { id, value, spellcheck: 'false', autocomplete: 'off', required: true, 'aria-describedby': `${id}-error ${id}-hint`, ...props });
	const { error, says } = errorLine(id, input);
	return {
		input, says, value: () => input.value.trim(),
		element: h('.field', h('label', { for: id }, label), input, error, h('p.hint', { id: `${id}-hint` }, hint)),
	};
}

/** A line that says what is wrong with `marked`. */
function errorLine(id, marked) {
	const error = h('p.error', { id: `${id}-error`, hidden: true });
	const says = (reason) => {
		put(error, icon('failed'), h('span', sentence(reason)));
		error.hidden = !reason;
		marked.setAttribute('aria-invalid', !!reason);
	};
	return { error, says };
}

function eventField(types, chosen) {
	const every = h('input', { type: 'checkbox', id: 'all-events', change: () => boxes.forEach((box) => { box.checked = every.checked; }) });
	const update = () => {
		const on = value().length;
		every.checked = on === boxes.length;
		every.indeterminate = on > 0 && !every.checked;
	};
	const groups = {};
	const boxes = types.map(({ type, name, description }) => {
		const id = `event-${type}`;
		const box = h('input', { type: 'checkbox', id, value: type, checked: chosen.includes(type), change: update, 'aria-describedby': `${id}-about` });
		(groups[sentence(type.split('.')[0])] ??= []).push(
			h('.choice', box, h('div', h('label', { for: id }, name), h('code', type), h('p.hint', { id: `${id}-about` }, description))));
		return box;
	});
	const value = () => boxes.filter((box) => box.checked).map((box) => box.value);
	update();
	const element = h('fieldset.field', { 'aria-describedby': 'events-error' });
	const { error, says } = errorLine('events', element);
	put(element, h('legend', 'Events'), error,
		h('.choice', every, h('label', { for: 'all-events' }, 'Select all')),
		h('.groups', Object.entries(groups).map(([group, choices]) => h('fieldset.group', h('legend', group), choices))));
	return { element, value, says };
}

/** A form that calls `save`. Until `signal` aborts, it is not left unsaved without a question. If saving fails, `failed` gets the problem and a function that tries again. */
export function webhookForm(fields, signal, actions, save, failed = fields.show) {
	({ unsaved } = fields);
	arrive();
	home = { entry, url: location.href };
	signal.addEventListener('abort', () => { if (unsaved === fields.unsaved) forget(); });
	const control = submit('Save');
	const attempt = () => save().catch((problem) => failed(problem, attempt));
	return form('', control, attempt, fields.element, h('.actions', actions, control));
}

let unsaved = null, asking = false;
/** The number of the history's entry that is shown, and the entry and address of the form that may be unsaved. */
let entry = 0, home;

/** Entries are numbered as they come, so that the way back to one is known. */
function arrive() {
	if (history.state === null) history.replaceState(entry + 1, '');
	entry = history.state;
}
arrive();

export const forget = () => { unsaved = null; };

/** Whether the reader may go where the address now points. If not, the address becomes as before. */
export async function mayLeave() {
	arrive();
	if (!unsaved?.()) return true;
	// A question is open, whose answer counts for this change of the address, too; or this is the way back after its answer.
	if (asking || location.href === home.url) return false;
	asking = true;
	const leaves = await confirm('Leave without saving?', ['Your changes are lost.'], 'Leave', 'Stay');
	asking = false;
	if (leaves) forget();
	else if (entry === home.entry) history.replaceState(entry, '', home.url);
	else history.go(home.entry - entry);
	return leaves;
}

addEventListener('beforeunload', (event) => { if (unsaved?.()) event.preventDefault(); });

export function createView(main, signal) {
	const body = h('div');
	put(main, crumb(), heading('Create Webhook'), body);
	poll(body, 0, signal, async () => {
		const fields = webhookFields(await eventTypes(signal)), create = once();
		const save = async () => created(await create('/webhooks', fields.values()));
		put(body, h('.card', webhookForm(fields, signal, link('Cancel', ''), save)));
	});

	function created({ id, name, secret, warnings: texts }) {
		if (signal.aborted) return;
		forget();
		signal.addEventListener('abort', () => { secret = ''; });
		put(main, crumb(), heading('Webhook created'),
			h('p.muted', h('bdi', name), ' is active. Verify each request with its secret.'),
			warnings(texts),
			section('Signing secret', secretBox(() => secret, signal)),
			snippets(),
			h('.actions', link('Go to the webhook', `/${id}/logs`), link('Send a test', `/${id}/test`, '.primary')));
		begin(main);
	}
}
