// The fields of forms: each has its label, a hint, and a place for what is wrong.
import { announce, button, h, icon, put, sentence, warning } from './dom.js';

/** The most headers of a webhook. */
const MOST = 10;

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

export function eventField(types, chosen) {
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

/**
 * The names and values of a webhook's headers. A value is never shown: where one is stored, it stays if nothing is entered for its
 * name.
 */
export function headersField(given) {
	const element = h('fieldset.field', { 'aria-describedby': 'headers-hint headers-error' }), list = h('div'), { error, says } = errorLine('headers', element);
	let rows, stored, moved;
	const isStored = (name) => stored.includes(name.toLowerCase());
	const add = button('Add header', () => {
		append('').title.focus();
		announce(`Header ${rows.length} of ${MOST} at most was added.`);
	}, '.small');

	function append(name) {
		const input = (kind, props) => h(`input${kind}`, { autocomplete: 'off', spellcheck: 'false', 'aria-describedby': 'headers-error', input: update, ...props });
		// Masked, and yet no password's field, whose text browsers offer to store.
		const title = input('', { value: name }), value = input('.masked'), again = warning('Give this value again.');
		const remove = button('Remove', () => {
			const at = rows.indexOf(row);
			rows.splice(at, 1);
			row.element.remove();
			update();
			(rows[at]?.title ?? add).focus();
			announce(`${title.value || 'The header'} was removed.`);
		}, '.small');
		const row = { title, value, again, remove, name: () => title.value.trim(),
			element: h('.line', { role: 'group', 'aria-label': 'Header' }, h('label.labelled', 'Name', title), h('label.labelled', 'Value', value), remove, again) };
		rows.push(row);
		list.append(row.element);
		update();
		return row;
	}

	function update() {
		for (const { name, value, again, remove } of rows) {
			const keeps = isStored(name());
			value.placeholder = keeps && !moved ? '[hidden]: stays, if empty' : '';
			again.hidden = !(keeps && moved && !value.value);
			remove.setAttribute('aria-label', `Remove ${name() || 'header'}`);
		}
		add.disabled = rows.length >= MOST;
	}

	/** Shows what is stored: no value stays in the page. */
	function fill(headers) {
		const names = Object.keys(headers);
		stored = names.map((name) => name.toLowerCase());
		rows = [];
		put(list);
		names.forEach(append);
		update();
	}
	fill(given);
	put(element, h('legend', 'Request headers'), h('p.hint', { id: 'headers-hint' },
		'For receivers behind a gateway, such as Authorization. Values are encrypted and never shown again.'), error, list, h('.actions.start', add));
	return {
		element, fill,
		any: () => rows.length > 0,
		value: () => Object.fromEntries(rows.filter((row) => row.name() || row.value.value).map(({ name, value }) => [name(), value.value || (isStored(name()) ? null : '')])),
		/** A name that stands there twice, which would be lost in `value`. */
		twice: () => rows.map((row) => row.name()).find((name, i, all) => name && all.indexOf(name) < i),
		/** Notes whether the URL leads to another receiver, which gets no stored value. Tells whether that matters. */
		moves(now) {
			moved = now;
			update();
			return moved && stored.length > 0;
		},
		/** Marks the header that the reason names, too. */
		says(reason) {
			says(reason);
			const words = reason.split(/[\s\x60;]+/);
			for (const { title, value, name } of rows) {
				const wrong = name() && words.includes(name()) && (reason.includes('value') ? value : title);
				for (const input of [title, value]) input.setAttribute('aria-invalid', input === wrong);
			}
		},
	};
}

/** The most requests a second; null if there is no limit. */
export function paceField(pace) {
	const field = textField('max_per_second', 'Requests a second at most', pace, 'For a small receiver; what is too much waits. Empty: no limit.',
		{ type: 'number', min: 1, max: 1000, required: false });
	// Of what is no number, a browser gives an empty value. The API refuses 0.
	return { ...field, value: () => (field.input.validity.badInput ? 0 : field.value() ? Number(field.value()) : null) };
}
