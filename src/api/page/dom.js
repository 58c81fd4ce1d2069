// @ts-check
// Makes elements. Text only ever becomes text: nothing here or elsewhere parses HTML.

/** @typedef {Node | string | number | null | undefined | false | Child[]} Child */

/** @param {string} tag @param {Record<string, any>} [props] @param {...Child} children @returns {any} */
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** @param {string} tag @param {Record<string, any>} [props] @param {...Child} children @returns {any} */
export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', tag), props, children);
}

/** @param {Element} element @param {Record<string, any>} props @param {Child[]} children */
function fill(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === 'function') element.addEventListener(name, value);
    else if (name === 'value' || name === 'checked') /** @type {any} */ (element)[name] = value;
    else element.setAttribute(name, value === true ? '' : String(value));
  }
  element.append(...flat(children));
  return element;
}

/** @param {Child[]} children @returns {(Node | string)[]} */
const flat = (children) =>
  /** @type {any[]} */ (children).flat(9).filter((c) => c !== null && c !== undefined && c !== false).map((c) => (c instanceof Node ? c : String(c)));

/** @param {Element} element @param {...Child} children */
export const put = (element, ...children) => element.replaceChildren(...flat(children));

const PATHS = {
  success: 'M8 1.5a6.5 6.5 0 1 1 0 13 6.5 6.5 0 0 1 0-13Zm-3 6.7 2.1 2.1 4-4.3',
  failed: 'M4.6 1.5h6.8l3.1 3.1v6.8l-3.1 3.1H4.6l-3.1-3.1V4.6ZM5.7 5.7l4.6 4.6m0-4.6-4.6 4.6',
  none: 'M2.5 8a5.5 5.5 0 1 1 11 0 5.5 5.5 0 0 1-11 0',
  warning: 'M8 2 15 14H1ZM8 6.5v3.2m0 1.8v.3',
  plus: 'M8 3v10M3 8h10',
  back: 'M10 3 5 8l5 5',
  open: 'm6 4 4 4-4 4',
};

/** @param {keyof typeof PATHS} name */
export const icon = (name) =>
  svg('svg', { viewBox: '0 0 16 16', class: `icon ${name}`, 'aria-hidden': 'true' }, svg('path', { d: PATHS[name] }));

/** @param {string} label @param {(event: Event) => any} click @param {string} [kind] */
export const button = (label, click, kind = '') => h('button', { type: 'button', class: `button ${kind}`, click }, label);

/** Disables a button while its work runs; a second click does nothing. @param {any} control @param {() => Promise<any>} work */
export async function busy(control, work) {
  if (control.getAttribute('aria-disabled') === 'true') return;
  control.setAttribute('aria-disabled', 'true');
  try {
    await work();
  } finally {
    control.removeAttribute('aria-disabled');
  }
}

const status = /** @type {HTMLElement} */ (document.getElementById('status'));
let clearing = 0;
/** Says it to everybody, at the foot of the page. @param {string} text @param {'ok' | 'bad'} [kind] */
export function say(text, kind = 'ok') {
  clearTimeout(clearing);
  put(status, h('p', { class: `toast ${kind}` }, icon(kind === 'ok' ? 'success' : 'failed'), h('span', {}, text)));
  clearing = setTimeout(() => put(status), kind === 'ok' ? 6000 : 12_000);
}

/** What went wrong, with what support needs to find it. @param {any} problem */
export const words = (problem) =>
  problem.message + (problem.requestId && problem.status >= 500 ? ` (request ${problem.requestId})` : '');

/** Says a failed request's problem; for whatever the reader has started. @param {() => Promise<any>} work */
export async function saying(work) {
  try {
    return await work();
  } catch (problem) {
    if (/** @type {any} */ (problem).status !== 401 && /** @type {any} */ (problem).name !== 'AbortError') say(words(problem), 'bad');
    return undefined;
  }
}

/** A question before something that cannot be undone; whether the answer was yes.
 * @param {string} title @param {Child[]} text @param {string} yes @returns {Promise<boolean>} */
export function confirm(title, text, yes, kind = 'danger') {
  return new Promise((resolve) => {
    const heading = h('h2', { id: 'question' }, title);
    const dialog = h('dialog', { 'aria-labelledby': 'question', close: () => { dialog.remove(); resolve(dialog.returnValue === 'yes'); } },
      heading, text.map((line) => h('p', {}, line)),
      h('div', { class: 'actions' },
        button('Cancel', () => dialog.close(''), ''),
        button(yes, () => dialog.close('yes'), kind)));
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Text as it came, in a box that scrolls by keyboard too. @param {string} label @param {string} text */
export function block(label, text, copyable = true) {
  const pre = h('pre', { tabindex: 0, role: 'region', 'aria-label': label }, text);
  return h('div', { class: 'block' },
    h('div', { class: 'block-head' }, h('span', {}, label), copyable && copyButton(async () => text, `Copy ${label.toLowerCase()}`)), pre);
}

/** @param {() => Promise<string | undefined>} text @param {string} label */
export function copyButton(text, label, kind = 'small') {
  const own = h('button', { type: 'button', class: `button ${kind}`, 'aria-label': label, click: () => busy(own, async () => {
    const copied = await text();
    if (copied === undefined) return;
    const done = await copy(copied);
    say(done ? 'Copied to the clipboard.' : 'The browser did not allow copying. Reveal it and copy it by hand.', done ? 'ok' : 'bad');
  }) }, 'Copy');
  return own;
}

/** @param {string} text */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // No secure context, or a frame without the permission: the old way still asks the user's own click.
    const area = h('textarea', { class: 'hidden', 'aria-hidden': 'true', value: text });
    const focused = /** @type {HTMLElement | null} */ (document.activeElement);
    (document.querySelector('dialog[open]') ?? document.body).append(area);
    area.select();
    const done = document.execCommand('copy');
    area.remove();
    focused?.focus();
    return done;
  }
}

/** A switch that shows what is, not what was asked for. @param {boolean} on @param {string} label @param {(on: boolean) => Promise<any>} change */
export function toggle(on, label, change) {
  const own = h('button', { type: 'button', role: 'switch', class: 'switch', 'aria-checked': String(on), 'aria-label': label,
    click: () => busy(own, () => change(own.getAttribute('aria-checked') !== 'true')) });
  return own;
}

/** @param {string} type @param {Child[]} children */
export const notice = (type, ...children) =>
  h('div', { class: `notice ${type}` }, icon(type === 'bad' ? 'failed' : 'warning'), h('div', {}, children));

/** Lines where content will be; they appear only after a moment. @param {number} lines */
export const skeleton = (lines) =>
  h('div', { class: 'card skeleton', role: 'status' }, h('span', { class: 'hidden' }, 'Loading…'), Array.from({ length: lines }, () => h('i')));

/** What stands in place of content. @param {string} title @param {...Child} children */
export const empty = (title, ...children) => h('div', { class: 'card empty' }, h('h2', {}, title), children);
