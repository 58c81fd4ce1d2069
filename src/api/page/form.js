// The form for a webhook's fields: shows the API's errors beside them, and is not left unsaved without a question. The view that
// creates a webhook.
import { eventTypes, once, poll } from './http.js';
import { begin, confirm, crumb, form, h, heading, link, notice, put, section, sentence, submit, warning, warnings } from './dom.js';
import { eventField, headersField, paceField, textField } from './fields.js';
import { secretBox, snippets } from './signing.js';

/** So many fields are always shown; those behind them are folded. */
const SHOWN = 3;
/** The hosts that are the machine itself. */
const THIS_MACHINE = /^((.*\.)?localhost|127(\.\d+){3}|0\.0\.0\.0|\[::1?\])$/;

/** The parts of a URL, none if it is no URL. */
function partsOf(url) {
	try {
		return new URL(url.replace(/^(?!\w+:\/\/)/, 'https://'));
	} catch {
		return {};
	}
}

export function webhookFields(types, values = { events: [], headers: {}, max_per_second: null }) {
	const fields = {
		name: textField('name', 'Name', values.name, 'For example “Blog”.'),
		url: textField('url', 'URL', values.url, 'It must be reachable from the internet.', { type: 'url', placeholder: 'https://hooks.your-company.com/penr' }),
		events: eventField(types, values.events),
		headers: headersField(values.headers),
		max_per_second: paceField(values.max_per_second),
	};
	// Of a URL that is saved its webhook's warnings tell.
	const isNew = (url) => url !== values.url;
	warnOf(fields.url, (url) => isNew(url) && /^http:/i.test(url), 'Not encrypted: anyone on the way can read the events. Use https.');
	warnOf(fields.url, (url) => THIS_MACHINE.test(partsOf(url).hostname), 'This is the sending machine itself. To receive on your own, run your receiver (or ',
		h('code', 'penr-webhooks listen'), ') behind a tunnel (cloudflared, ngrok) and enter its URL.');
	warnOf(fields.url, (url) => fields.headers.moves(partsOf(url).origin !== partsOf(values.url).origin),
		'This is another receiver: under Advanced, give the values of all request headers again, or remove the headers.');
	const all = Object.values(fields), problem = h('div', { role: 'alert' });
	const clear = () => {
		put(problem);
		for (const field of all) field.says('');
	};
	const read = () => Object.fromEntries(Object.entries(fields).map(([key, field]) => [key, field.value()]));
	const now = () => JSON.stringify(read());
	const elements = all.map((field) => field.element);
	const fold = h('details.field', { open: values.max_per_second || fields.headers.any() }, h('summary', 'Advanced'), elements.splice(SHOWN));
	const element = h('div', problem, elements, fold);
	let kept = now();
	return {
		element,
		/** What is to be saved. What is folded only if it has changed. */
		values() {
			const twice = fields.headers.twice();
			if (twice) throw Object.assign(new Error(), { errors: [{ field: 'headers', reason: `the header ${twice} is given twice` }] });
			return Object.fromEntries(Object.entries(read()).filter(([key, value], i) => i < SHOWN || JSON.stringify(value) !== JSON.stringify(values[key])));
		},
		unsaved: () => now() !== kept,
		/** What the form holds is saved, as `data`. */
		saved(data) {
			clear();
			values = { ...data, url: fields.url.value() };
			fields.headers.fill(data.headers);
			kept = now();
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
			fold.open ||= fold.contains(first);
			if (!first || elsewhere.length) put(problem, notice('.bad', 'Not saved', h('p', sentence(elsewhere.join(' ') || failed.message))));
			(first?.querySelector('[aria-invalid=true]') ?? first?.querySelector('input') ?? first)?.focus();
		},
	};
}

/** Shows a warning below a field while `applies` to its text. */
function warnOf({ input, value, element }, applies, ...text) {
	const line = warning(...text);
	const update = () => { line.hidden = !applies(value()); };
	input.addEventListener('input', update);
	update();
	// Told by screen readers when it appears.
	element.append(h('div', { role: 'status' }, line));
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
