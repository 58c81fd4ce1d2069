// Makes elements. Text becomes text nodes: no file of the page parses HTML.

/** `h('p.muted', { id }, 'text')`; the properties may be left out. */
export const h = (tag, ...rest) => make('http://www.w3.org/1999/xhtml', tag, rest);
export const svg = (tag, ...rest) => make('http://www.w3.org/2000/svg', tag, rest);

function make(namespace, tag, rest) {
	const [name, ...classes] = tag.split('.');
	const element = document.createElementNS(namespace, name || 'div');
	if (classes.length) element.setAttribute('class', classes.join(' '));
	const props = rest[0]?.constructor === Object ? rest.shift() : {};
	for (const [key, value] of Object.entries(props)) {
		if (nothing(value)) continue;
		if (typeof value === 'function') element.addEventListener(key, value);
		else if (key === 'value' || key === 'checked') element[key] = value;
		else element.setAttribute(key, value === true ? '' : unruled(String(value)));
	}
	put(element, rest);
	return element;
}

const nothing = (value) => (value ?? false) === false;

export function put(element, ...children) {
	const ruling = FOREIGN.has(element.localName) ? MARKS : RULING;
	element.replaceChildren(...children.flat(9).filter((child) => !nothing(child)).map((child) => (child instanceof Node ? child : unruled(String(child), ruling))));
}

/** Characters that make the text around them run in another direction; the same and marks of direction, which also stand in dates. */
const RULING = /[\u202a-\u202e\u2066-\u2069]/g, MARKS = /[\u202a-\u202e\u2066-\u2069\u061c\u200e\u200f]/g;
/** The elements in which text of others stands. */
const FOREIGN = new Set(['bdi', 'code', 'pre']);

/** The text with such characters written out, such as ⟨U+202E⟩. */
export const unruled = (text, characters = RULING) =>
	text.replace(characters, (char) => `⟨U+${char.codePointAt().toString(16).toUpperCase().padStart(4, '0')}⟩`);

const PATHS = {
	success: 'M8 1.5a6.5 6.5 0 1 1 0 13 6.5 6.5 0 0 1 0-13Zm-3 6.7 2.1 2.1 4-4.3',
	failed: 'M4.6 1.5h6.8l3.1 3.1v6.8l-3.1 3.1H4.6l-3.1-3.1V4.6ZM5.7 5.7l4.6 4.6m0-4.6-4.6 4.6',
	none: 'M2.5 8a5.5 5.5 0 1 1 11 0 5.5 5.5 0 0 1-11 0',
	warning: 'M8 2 15 14H1ZM8 6.5v3.2m0 1.8v.3',
	plus: 'M8 3v10M3 8h10',
	retry: 'M13.5 8A5.5 5.5 0 1 1 8 2.5c2 0 3.4 1 4.7 2.5M13 2v3h-3',
	back: 'M10 3 5 8l5 5',
	open: 'm6 4 4 4-4 4',
};
export const icon = (name) => svg(`svg.icon.${name}`, { viewBox: '0 0 16 16', 'aria-hidden': 'true' }, svg('path', { d: PATHS[name] }));

/** A button. While its work runs, further clicks do nothing; an error is shown. */
export function button(label, work, kind = '', props = {}) {
	const own = h(`button.button${kind}`, { type: 'button', click: () => act(own, () => work(own)), ...props }, label);
	return own;
}

export const submit = (label) => h('button.button.primary', { type: 'submit' }, label);

/** A form whose button `control` does `work`. */
export const form = (kind, control, work, ...children) =>
	h(`form${kind}`, { novalidate: true, submit: (event) => { event.preventDefault(); act(control, work); } }, children);

/** `choices` are pairs of a value and its text. */
export const select = (props, choices) => h('select', props, choices.map(([value, text]) => h('option', { value }, text)));

/** Where the control was that was used last. */
let used;
export async function act(control, work) {
	if (control.hasAttribute('aria-disabled')) return;
	control.setAttribute('aria-disabled', 'true');
	used = control.getBoundingClientRect();
	try {
		await work();
	} catch (problem) {
		if (problem.status !== 401 && problem.name !== 'AbortError') say(problem.message, 'failed');
	} finally {
		control.removeAttribute('aria-disabled');
	}
}

export const focus = (element) => element?.focus({ preventScroll: true });

/** Shows the beginning of a new view, and focuses its heading. A frame as high as its content does not scroll, but its host does. */
export function begin(main) {
	scrollTo(0, 0);
	main.firstElementChild.scrollIntoView({ block: 'nearest' });
	focus(main.querySelector('h1'));
}

/** A toast stays so far from the control that was used that it does not cover its row. */
const NEAR_PX = 100;
const status = document.getElementById('status');
let clearing = 0;
export function say(text, kind = 'success') {
	clearTimeout(clearing);
	const toast = h('p.toast', icon(kind), h('span', text));
	put(status, toast);
	if (used?.bottom + NEAR_PX > toast.getBoundingClientRect().top) toast.classList.add('above');
	clearing = setTimeout(put, kind === 'success' ? 6000 : 12_000, status);
}

export const hush = () => put(status);

const heard = h('.hidden', { role: 'status' });
document.body.append(heard);
/** Tells screen readers, and nobody else. */
export const announce = (text) => put(heard, text);

/** Asks the reader; resolves to whether the answer was yes. `no` says what happens otherwise. */
export function confirm(title, lines, yes, no = 'Keep it') {
	return new Promise((resolve) => {
		const dialog = h('dialog', { 'aria-labelledby': 'question', 'aria-describedby': 'about', close: () => { dialog.remove(); resolve(dialog.returnValue === 'yes'); } },
			h('h2', { id: 'question' }, title), h('div', { id: 'about' }, lines.map((line) => line && h('p', line))),
			h('form.actions', { method: 'dialog' }, h('button.button', no), h('button.button.danger', { value: 'yes' }, yes)));
		document.body.append(dialog);
		dialog.showModal();
	});
}

/** Text in a box that can be scrolled by keyboard and copied. */
export const block = (label, text) => h('.block', h('.block-head', label, copyButton(() => text, `Copy ${label.toLowerCase()}`)),
	h('pre', { tabindex: 0, role: 'group', 'aria-label': label }, text));

export const copyButton = (text, label, key, said = 'Copied to the clipboard.') => button('Copy', async () => {
	const copied = await text();
	try {
		await navigator.clipboard.writeText(copied);
	} catch {
		if (!copyByCommand(copied)) return say('Not allowed here: select the text and copy it by hand.', 'failed');
	}
	say(said);
}, '.small', { 'aria-label': label, 'data-key': key });

/** For a frame without the permission for the clipboard. Tells whether it worked. */
function copyByCommand(text) {
	const area = h('textarea.hidden', { 'aria-hidden': 'true', value: text }), focused = document.activeElement;
	document.body.append(area);
	area.select();
	const done = document.execCommand('copy');
	area.remove();
	focused.focus();
	return done;
}

export const notice = (kind, title, ...children) =>
	h(`.notice${kind}`, icon(kind ? 'failed' : 'warning'), h('div', h('strong', title), children));

export const sentence = (text) => text.replace(/^./, (first) => first.toUpperCase());

export const warning = (...content) => h('p.warn', icon('warning'), h('span', content));
export const warnings = (texts) => texts.map((text) => warning(sentence(text)));

export const section = (title, ...children) => h('section.card', { 'aria-label': title }, h('h2', title), children);

export const loading = () => h('p.loading.muted', { role: 'status' }, 'Loading…');

/** The heading of a view, which is the page's title, too. */
export function heading(title) {
	document.title = title;
	return h('h1', { tabindex: -1 }, title);
}

export const empty = (title, ...children) => h('.card.empty', h(document.querySelector('h1') ? 'h2' : 'h1', { tabindex: -1 }, title), children);

export const link = (label, view, kind = '') => h(`a.button${kind}`, { href: `#/webhooks${view}` }, label);
export const crumb = () => h('a.crumb', { href: '#/webhooks' }, icon('back'), 'Webhooks');

/** Column headings, hidden from screen readers: each row has its own labels for them. */
export const columns = (kind, ...names) => h(`.columns.${kind}`, { 'aria-hidden': 'true' }, names.map((name) => h('span', name)));

/** Puts the rows of a list into this order. Rows that stay are not touched, so that they keep the focus. */
export function arrange(list, rows) {
	for (const row of [...list.children]) if (!rows.includes(row)) row.remove();
	rows.forEach((row, i) => list.children[i] === row || list.insertBefore(row, list.children[i] ?? null));
}
