// Sends a test and shows at once what went out and what came back.
import { ask, eventTypes, webhookPath } from './http.js';
import { block, busy, button, h, notice, put, say, saying, skeleton, words } from './dom.js';
import { failure, number, outcome, time } from './words.js';
import { snippet } from './logs.js';

export async function testTab(body, { id, signal, webhook, onChange, show }) {
  const subscribed = new Set(webhook().events);
  put(body, skeleton(3));
  const types = (await eventTypes(signal).catch(() => [])) ?? [];
  if (signal.aborted) return;
  const known = types.length ? types : [...subscribed].map((type) => ({ type, name: type }));
  const option = ({ type, name }) => h('option', { value: type }, `${name} (${type})`);
  const select = h('select', { id: 'test-type' },
    h('optgroup', { label: 'Subscribed' }, known.filter(({ type }) => subscribed.has(type)).map(option)),
    known.some(({ type }) => !subscribed.has(type)) && h('optgroup', { label: 'Other' }, known.filter(({ type }) => !subscribed.has(type)).map(option)));
  const result = h('div', { role: 'region', 'aria-label': 'Result', 'aria-live': 'polite' });
  const send = h('button', { type: 'submit', class: 'button primary' }, 'Send');
  const asleep = h('div', {});
  const update = () => {
    const { active, disabled_reason: reason } = webhook();
    send.disabled = !active;
    put(asleep, !active && notice('warn', h('strong', {}, 'An inactive webhook cannot be tested'),
      h('p', {}, reason ? 'We disabled it, and nothing is sent to a disabled webhook, not even a test. Re-enable it above first.' : 'Inactive means that nothing is sent at all, not even a test. Switch it on first.'),
      !reason && button('Activate', () => saying(async () => show((await ask('PATCH', webhookPath(id), { body: { active: true } })).data)))));
  };
  update();
  onChange(update);
  put(body, h('section', { class: 'card', 'aria-label': 'Test' },
    h('p', { class: 'muted' }, 'Sends one signed request with made-up data, now. It appears in the log and changes nothing else.'), asleep,
    h('form', { class: 'line', submit: (event) => {
      event.preventDefault();
      busy(send, async () => {
        put(result, h('p', { class: 'muted sending' }, 'Sending…'));
        try {
          const { data } = await ask('POST', `${webhookPath(id)}/test`, { body: { event_type: select.value }, signal });
          put(result, shown(data));
        } catch (problem) {
          if (!signal.aborted) put(result, notice('bad', h('strong', {}, 'The test was not sent'), h('p', {}, words(problem), problem.retryAfter ? ` Try again in ${problem.retryAfter} s.` : '')));
        }
      });
    } }, h('div', { class: 'field' }, h('label', { for: 'test-type' }, 'Event type to send'), select), send)), result);
}

function shown(row) {
  const why = failure(row);
  const { headers = {}, body = '', signed = '' } = row.request ?? {};
  return h('section', { class: 'card', 'aria-label': 'Result of the test' },
    h('div', { class: 'facts' },
      outcome(row.status), h('span', {}, h('b', {}, 'Status '), row.http_status ?? 'no answer'),
      h('span', {}, h('b', {}, 'Duration '), `${number(row.duration_ms)} ms`), time(row.created_at)),
    why && notice('bad', h('strong', {}, why[0]), h('p', {}, why[1])),
    snippet(row.response_snippet),
    block('Headers sent', Object.entries(headers).map(([name, value]) => `${name}: ${value}`).join('\n')),
    block('Body sent', body),
    block('Signed string', signed),
    h('p', { class: 'hint' }, h('code', {}, 'Webhook-Signature'), ' signs the string above; ', h('code', {}, 'X-Webhook-Signature'), ' signs the body alone.'));
}
