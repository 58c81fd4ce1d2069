// What the owner of a webhook changes: its fields, its secret, its existence.
import { ask, eventTypes, get, webhookPath } from './http.js';
import { busy, button, confirm, empty, h, notice, put, say, saying, skeleton, words } from './dom.js';
import { local, time } from './words.js';
import { webhookFields } from './form.js';
import { secretBox, snippets } from './secret.js';
import { poll } from './poll.js';

const OVERLAP_HOURS = 24;
const FIELDS = { name: 'Name', url: 'URL', events: 'Events' };

export function settingsTab(body, { id, signal, show }) {
  put(body, skeleton(6));
  const once = new AbortController();
  signal.addEventListener('abort', () => once.abort());
  poll(1000, once.signal, async () => {
    const [types, loaded] = await Promise.all([eventTypes(signal), ask('GET', webhookPath(id), { signal })]);
    once.abort();
    put(body, section('Edit', editor(types, loaded)), section('Signing secret', secret()), section('Verify requests', snippets()), section('Delete', removal()));
  }, (problem) => put(body, empty('The settings could not be loaded', h('p', {}, words(problem)))));

  /** Saves only over the version that the reader has seen. */
  function editor(types, { data, etag }) {
    const fields = webhookFields(types, data);
    const save = h('button', { type: 'submit', class: 'button primary' }, 'Save');
    const send = () => busy(save, () => saying(async () => {
      try {
        const saved = await ask('PATCH', webhookPath(id), { body: fields.values(), etag });
        ({ data, etag } = saved);
        fields.clear();
        show(data);
        say('Saved.');
      } catch (problem) {
        if (problem.status === 401) throw problem;
        if (problem.status === 412) return stale();
        fields.show(problem);
      }
    }));
    async function stale() {
      const now = await ask('GET', webhookPath(id), { signal });
      const changed = Object.keys(FIELDS).filter((field) => String(now.data[field]) !== String(data[field]));
      const anyway = button('Save mine anyway', () => { etag = now.etag; return send(); }, '');
      const theirs = button('Discard mine, load theirs', () => { put(form, ...editor(types, now).childNodes); show(now.data); }, 'primary');
      put(fields.problem, notice('warn', h('strong', {}, 'Not saved: this webhook was changed meanwhile'),
        h('p', {}, 'Somebody saved it, perhaps you in another tab, after you opened this form. Nothing of yours was written.'),
        h('ul', {}, changed.map((field) => h('li', {}, `${FIELDS[field]} is now: `, h('bdi', {}, [now.data[field]].flat().join(', ')))),
          now.data.active !== data.active && h('li', {}, now.data.active ? 'It was switched on.' : 'It was switched off.')),
        h('div', { class: 'actions' }, anyway, theirs)));
      theirs.focus();
    }
    const form = h('form', { novalidate: true, submit: (event) => { event.preventDefault(); send(); } },
      fields.element, h('div', { class: 'actions' }, save));
    return form;
  }

  function secret() {
    const told = h('p', { class: 'hint', role: 'status' }, 'Treat it like a password: whoever has it can forge our requests.');
    const read = async () => (await get(`${webhookPath(id)}/secret`, signal)).data.secret;
    const box = secretBox(read, signal);
    const regenerate = button('Regenerate', () => saying(async () => {
      const until = local(new Date(Date.now() + OVERLAP_HOURS * 3600_000).toISOString());
      const yes = await confirm('Regenerate the signing secret?', [
        'A new secret signs every request from now on.',
        `The old one stays valid in Webhook-Signature for ${OVERLAP_HOURS} hours, until ${until}: until then that header carries both signatures, and code that checks it keeps working. Put the new secret into your receiver before that.`,
        'X-Webhook-Signature has room for one signature only: code that checks that one fails until it has the new secret. What fails is tried again.',
      ], 'Regenerate');
      if (!yes) return;
      const { data } = await ask('POST', `${webhookPath(id)}/secret/regenerate`);
      box.dispatchEvent(new Event('hide'));
      put(told, 'Regenerated. The old secret stays valid in Webhook-Signature until ', time(data.previous_valid_until), '.');
      say('There is a new secret: reveal or copy it, and put it into your receiver.');
    }), '');
    return h('div', {}, box, told, h('div', { class: 'actions start' }, regenerate));
  }

  const removal = () => h('div', {},
    h('p', { class: 'muted' }, 'Nothing more is sent, and what is waiting is cancelled. To pause it only, switch it off instead.'),
    h('div', { class: 'actions start' }, button('Delete webhook', () => saying(async () => {
      const yes = await confirm('Delete this webhook?', ['Its log, its secret and all that waits for delivery are lost. This cannot be undone.'], 'Delete');
      if (!yes) return;
      await ask('DELETE', webhookPath(id));
      say('The webhook was deleted.');
      location.hash = '#/webhooks';
    }), 'danger')));
}

const section = (title, content) => h('section', { class: 'card', 'aria-label': title }, h('h2', {}, title), content);
