// @ts-check
// The fields of a webhook, with the API's reasons beside the field they belong to.
import { h, icon, notice, put } from './dom.js';
import { words } from './dom.js';

/** @param {string} type */
const groupOf = (type) => type.split('.')[0].replace(/^./, (first) => first.toUpperCase());

/**
 * @param {{type: string, name: string, description: string}[]} types
 * @param {{name: string, url: string, events: string[]}} values
 */
export function webhookFields(types, values) {
  const name = textField('name', 'Name', 'text', values.name, 'So that you recognise it, for example “Blog”.', { maxlength: 400, autocomplete: 'off' });
  const url = textField('url', 'URL', 'url', values.url, 'Where we send the requests: an address that can be reached from the internet.', { placeholder: 'https://hooks.your-company.com/penr', inputmode: 'url', autocomplete: 'off', autocapitalize: 'none' });
  const plain = h('div', { class: 'warn', hidden: true, id: 'plain-http' }, icon('warning'), h('span', {}, 'This address is not encrypted: anyone on the way can read the events. Use https:// if you can.'));
  const warn = () => { plain.hidden = !/^\s*http:\/\//i.test(url.input.value); };
  url.input.addEventListener('input', warn);
  warn();
  url.element.append(plain);
  const events = eventField(types, values.events);
  const problem = h('div', { role: 'alert' });
  const fields = { name, url, events };

  const clear = () => {
    put(problem);
    Object.values(fields).forEach((field) => field.says(''));
  };
  return {
    element: h('div', { class: 'fields' }, problem, name.element, url.element, events.element),
    values: () => ({ name: name.input.value, url: url.input.value.trim(), events: events.chosen() }),
    problem,
    clear,
    /** Says each reason at its field, and takes the reader to the first. @param {any} failed */
    show(failed) {
      clear();
      /** @type {string[]} */
      const elsewhere = [];
      for (const { field, reason } of failed.errors) {
        const own = fields[/** @type {keyof typeof fields} */ (String(field).split(/[.[]/)[0])];
        if (own) own.says(reason);
        else elsewhere.push(reason);
      }
      const first = Object.values(fields).find((field) => field.bad());
      if (!first || elsewhere.length) put(problem, notice('bad', h('strong', {}, 'Not saved'), h('p', {}, elsewhere.join(' ') || words(failed))));
      first?.focus();
    },
  };
}

/** @param {string} id @param {string} label @param {string} type @param {string} value @param {string} hint @param {object} props */
function textField(id, label, type, value, hint, props) {
  const input = h('input', { id, name: id, type, value, spellcheck: 'false', required: true, 'aria-describedby': `${id}-error ${id}-hint`, ...props });
  const error = errorLine(id);
  return {
    input,
    element: h('div', { class: 'field' }, h('label', { for: id }, label), input, error, h('p', { class: 'hint', id: `${id}-hint` }, hint)),
    ...reports(error, input, input),
  };
}

/** @param {string} id */
const errorLine = (id) => h('p', { class: 'error', id: `${id}-error`, hidden: true });

/** @param {HTMLElement} error @param {HTMLElement} marked @param {HTMLElement} target */
function reports(error, marked, target) {
  return {
    says(/** @type {string} */ reason) {
      put(error, reason && icon('failed'), reason && h('span', {}, reason.replace(/^./, (first) => first.toUpperCase())));
      error.hidden = !reason;
      if (reason) marked.setAttribute('aria-invalid', 'true');
      else marked.removeAttribute('aria-invalid');
    },
    bad: () => !error.hidden,
    focus: () => target.focus(),
  };
}

/** @param {{type: string, name: string, description: string}[]} types @param {string[]} chosen */
function eventField(types, chosen) {
  /** @type {HTMLInputElement[]} */
  const boxes = [];
  /** @type {Map<string, any[]>} */
  const groups = new Map();
  for (const type of types) {
    const group = groupOf(type.type);
    groups.set(group, [...(groups.get(group) ?? []), type]);
  }
  const every = h('input', { type: 'checkbox', id: 'all-events' });
  const update = () => {
    const on = boxes.filter((box) => box.checked).length;
    every.checked = on === boxes.length;
    every.indeterminate = on > 0 && on < boxes.length;
  };
  every.addEventListener('change', () => boxes.forEach((box) => { box.checked = every.checked; }));
  const choice = (/** @type {any} */ { type, name, description }) => {
    const id = `event-${type}`;
    const box = h('input', { type: 'checkbox', name: 'events', id, value: type, checked: chosen.includes(type), change: update, 'aria-describedby': `${id}-about` });
    boxes.push(box);
    return h('div', { class: 'choice' }, box, h('div', {},
      h('label', { for: id }, name), h('code', {}, type), h('p', { class: 'hint', id: `${id}-about` }, description)));
  };
  const error = errorLine('events');
  const element = h('fieldset', { class: 'field', 'aria-describedby': 'events-error' },
    h('legend', {}, 'Events'), error,
    h('div', { class: 'choice all' }, every, h('label', { for: 'all-events' }, 'Select all')),
    h('div', { class: 'groups' }, [...groups].map(([group, members]) =>
      h('fieldset', { class: 'group' }, h('legend', {}, group), members.map(choice)))));
  update();
  return { element, chosen: () => boxes.filter((box) => box.checked).map((box) => box.value), ...reports(error, element, boxes[0] ?? every) };
}
