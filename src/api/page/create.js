// @ts-check
// A new webhook: its fields, then its secret and how to verify with it.
import { ask, eventTypes } from './http.js';
import { busy, button, empty, h, icon, put, saying, skeleton, words } from './dom.js';
import { webhookFields } from './form.js';
import { secretBox, snippets } from './secret.js';
import { poll } from './poll.js';

/** @param {HTMLElement} main @param {AbortSignal} signal */
export function createView(main, signal) {
  document.title = 'Create Webhook';
  const body = h('div', {}, skeleton(6));
  put(main,
    h('a', { class: 'crumb', href: '#/webhooks' }, icon('back'), 'Webhooks'),
    h('h1', { tabindex: -1 }, 'Create Webhook'), body);
  const once = new AbortController();
  signal.addEventListener('abort', () => once.abort());
  poll(1000, once.signal, async () => {
    const types = await eventTypes(signal);
    put(body, form(types));
    once.abort();
  }, (problem) => put(body, empty('The form could not be loaded', h('p', {}, words(problem)), button('Try again', () => createView(main, signal)))));

  /** @param {any[]} types */
  function form(types) {
    const fields = webhookFields(types, { name: '', url: '', events: [] });
    const save = h('button', { type: 'submit', class: 'button primary' }, 'Save');
    return h('form', { class: 'card', novalidate: true, submit: (/** @type {Event} */ event) => {
      event.preventDefault();
      busy(save, () => saying(async () => {
        try {
          created((await ask('POST', '/webhooks', { body: fields.values() })).data);
        } catch (problem) {
          if (/** @type {any} */ (problem).status === 401) throw problem;
          fields.show(problem);
        }
      }));
    } }, fields.element, h('div', { class: 'actions' }, h('a', { class: 'button', href: '#/webhooks' }, 'Cancel'), save));
  }

  /** @param {any} webhook */
  function created(webhook) {
    if (signal.aborted) return;
    document.title = 'Webhook created';
    /** @type {string | null} */
    let secret = webhook.secret;
    signal.addEventListener('abort', () => { secret = null; });
    const heading = h('h1', { tabindex: -1 }, 'Webhook created');
    put(main,
      h('a', { class: 'crumb', href: '#/webhooks' }, icon('back'), 'Webhooks'), heading,
      h('p', { class: 'muted' }, h('bdi', {}, webhook.name), ' is active and gets events from now on. Verify each request with its secret.'),
      h('section', { class: 'card', 'aria-labelledby': 'secret-title' }, h('h2', { id: 'secret-title' }, 'Signing secret'),
        secretBox(async () => secret ?? undefined, signal),
        h('p', { class: 'hint' }, 'Treat it like a password. You can look it up again in the settings of this webhook.')),
      h('section', { class: 'card', 'aria-labelledby': 'verify-title' }, h('h2', { id: 'verify-title' }, 'Verify requests'), snippets()),
      h('div', { class: 'actions' },
        h('a', { class: 'button', href: `#/webhooks/${webhook.id}/logs` }, 'Go to the webhook'),
        h('a', { class: 'button primary', href: `#/webhooks/${webhook.id}/test` }, 'Send a test')));
    scrollTo(0, 0);
    heading.focus({ preventScroll: true });
  }
}
