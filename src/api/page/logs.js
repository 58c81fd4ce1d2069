// The webhook's log: newest first, growing by itself; each row opens to its delivery's whole story.
import { ask, eventTypes, get, webhookPath } from './http.js';
import { block, busy, button, empty, h, icon, put, say, saying, skeleton, words } from './dom.js';
import { count, failure, number, outcome, time } from './words.js';
import { chart } from './chart.js';
import { poll } from './poll.js';

const EVERY_MS = 3000;
const PAGE = 10;
const TRIGGERS = { event: 'First attempt', retry: 'Retry', test: 'Test', resend: 'Resent' };

export function logsTab(body, { id, signal, webhook }) {
  const status = h('select', { id: 'by-status', change: restart },
    [['', 'All statuses'], ['success', 'Success'], ['failed', 'Failed']].map(([value, text]) => h('option', { value }, text)));
  const type = h('select', { id: 'by-type', change: restart }, h('option', { value: '' }, 'All event types'),
    webhook().events.map((name) => h('option', { value: name }, name)));
  eventTypes(signal).then((types) => type.append(...types.filter((one) => !webhook().events.includes(one.type)).map((one) => h('option', { value: one.type }, one.type)))).catch(() => {});
  const rows = h('ol', { class: 'card log', 'aria-label': 'Deliveries, newest first' });
  const area = h('div', {}, skeleton(5));
  const news = h('p', { class: 'hidden', role: 'status' });
  const more = button('Load more', () => busy(more, () => saying(loadMore)));
  put(body, chart(id, signal),
    h('div', { class: 'filters' }, h('h2', {}, 'Webhook Logs'),
      h('label', { class: 'hidden', for: 'by-status' }, 'Status'), status, h('label', { class: 'hidden', for: 'by-type' }, 'Event type'), type),
    news, area, h('div', { class: 'actions middle' }, more));
  more.hidden = true;

  let cursor = null;
  let known = new Map();
  let filtering;
  function restart() {
    filtering?.abort();
    filtering = new AbortController();
    known = new Map();
    put(area, skeleton(5));
    more.hidden = true;
    poll(EVERY_MS, filtering.signal, newest, (problem) => put(area, empty('The log could not be loaded', h('p', {}, words(problem)), button('Try again', restart))));
  }
  signal.addEventListener('abort', () => filtering?.abort());
  restart();

  const page = (from, own) => get(`${webhookPath(id)}/deliveries?${new URLSearchParams({ limit: PAGE, ...(status.value && { status: status.value }), ...(type.value && { event_type: type.value }), ...(from && { cursor: from }) })}`, own);

  async function newest() {
    const own = filtering.signal;
    const { data } = await page(null, own);
    if (own.aborted) return;
    const fresh = data.data.filter((row) => !known.has(row.id));
    const first = !rows.isConnected || !known.size;
    // More than a page has come: what lies between is not known, so the list begins anew.
    if (first || fresh.length === data.data.length) {
      cursor = data.next_cursor;
      if (fresh.length || first) {
        known = new Map();
        put(rows);
      }
    }
    rows.prepend(...fresh.map(keep));
    if (!known.size) put(area, status.value || type.value
      ? empty('Nothing matches these filters', button('Show all', () => { status.value = type.value = ''; restart(); }))
      : empty('Nothing was sent yet', h('p', {}, 'Deliveries appear here by themselves. Send a test to see one now.'), h('a', { class: 'button', href: `#/webhooks/${id}/test` }, 'Send a test')));
    else if (!rows.isConnected) put(area, heading(), rows);
    if (!first && fresh.length) put(news, count(fresh.length, 'new delivery', 'new deliveries'));
    more.hidden = !cursor;
  }

  async function loadMore() {
    const own = filtering.signal;
    const { data } = await page(cursor, own);
    if (own.aborted) return;
    cursor = data.next_cursor;
    const older = data.data.filter((row) => !known.has(row.id)).map(keep);
    rows.append(...older);
    more.hidden = !cursor;
    older[0]?.querySelector('summary').focus();
  }

  function keep(row) {
    const element = logRow(row);
    known.set(row.id, element);
    return element;
  }

  function logRow(row) {
    const story = h('div', { class: 'story' });
    const details = h('details', { toggle: () => { if (details.open) tell(row, story); } },
      h('summary', {}, icon('open'), outcome(row.status),
        h('span', { class: 'type' }, h('code', {}, row.event_type), row.trigger !== 'event' && h('small', { class: 'muted' }, `${TRIGGERS[row.trigger] ?? row.trigger}${row.trigger === 'retry' ? ` · attempt ${row.attempt}` : ''}`)),
        cell('HTTP status', row.http_status ?? '—'), cell('Duration', `${number(row.duration_ms)} ms`), cell('Time', time(row.created_at))),
      story);
    return h('li', { 'data-id': row.id }, details);
  }

  /** All attempts of the row's delivery, fetched whenever the row is opened. */
  async function tell(row, story) {
    put(story, h('p', { class: 'muted' }, 'Loading…'));
    let attempts = [row];
    try {
      const { data } = await get(`${webhookPath(id)}/deliveries?limit=100&delivery_id=${row.delivery_id}`, signal);
      if (data.data.length) attempts = data.data;
    } catch (problem) {
      if (signal.aborted) return;
      put(story, h('p', { class: 'error' }, words(problem)));
      return;
    }
    const next = attempts[0].next_attempt_at;
    const resend = button('Resend', () => busy(resend, () => saying(async () => {
      await ask('POST', `${webhookPath(id)}/deliveries/${row.delivery_id}/resend`);
      say('It is being sent again; the new attempt appears here by itself.');
    })), 'small');
    put(story,
      h('dl', {}, h('dt', {}, 'Event'), h('dd', {}, h('code', {}, row.event_id)), h('dt', {}, 'Delivery'), h('dd', {}, h('code', {}, row.delivery_id)),
        h('dt', {}, 'Next attempt'), h('dd', {}, next ? time(next) : attempts[0].status === 'success' ? 'None: it was delivered' : 'None')),
      row.trigger !== 'test' && h('div', { class: 'actions start' }, resend),
      h('h3', {}, count(attempts.length, 'attempt')),
      h('ol', { class: 'attempts' }, attempts.map((attempt) => {
        const why = failure(attempt);
        return h('li', {}, h('div', { class: 'facts' }, outcome(attempt.status), h('b', {}, `Attempt ${attempt.attempt}`), h('span', {}, TRIGGERS[attempt.trigger] ?? attempt.trigger),
          h('span', {}, attempt.http_status ? `HTTP ${attempt.http_status}` : 'No answer'), h('span', {}, `${number(attempt.duration_ms)} ms`), time(attempt.created_at)),
          why && h('p', {}, h('strong', {}, why[0]), ' ', why[1]), snippet(attempt.response_snippet));
      })));
  }
}

const cell = (label, content) => h('span', { class: 'cell' }, h('span', { class: 'hidden' }, `${label} `), content);

const heading = () => h('div', { class: 'columns row', 'aria-hidden': 'true' },
  ['', 'Result', 'Event type', 'HTTP', 'Duration', 'Time'].map((name) => h('span', {}, name)));

export const snippet = (text) => (text ? block('Response', text, false) : h('p', { class: 'muted' }, 'The response had no body.'));
