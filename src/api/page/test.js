// Sends a test and shows at once what went out and what came back.
import { ask, eventTypes, poll, webhookPath } from './http.js';
import { act, block, button, h, notice, put, section, skeleton, submit } from './dom.js';
import { failure, ms, outcome, time } from './words.js';
import { snippet } from './logs.js';

export function testTab(body, tab) {
	put(body, skeleton(3));
	poll(body, 0, tab.signal, async () => put(body, tester(await eventTypes(tab.signal), tab)));
}

function tester(types, { id, signal, webhook, onChange, show }) {
	const path = webhookPath(id);
	const group = (label, subscribed) => {
		const members = types.filter(({ type }) => webhook().events.includes(type) === subscribed);
		return members.length > 0 && h('optgroup', { label }, members.map(({ type, name }) => h('option', { value: type }, `${name} (${type})`)));
	};
	const select = h('select', { id: 'test-type' }, group('Subscribed', true), group('Not subscribed', false));
	const result = h('div', { 'aria-live': 'polite' });
	const control = submit('Send');
	const asleep = h('div');
	const update = () => {
		const { active, disabled_reason: reason } = webhook();
		control.disabled = !active;
		put(asleep, !active && notice('', 'An inactive webhook cannot be tested',
			h('p', reason ? 'We disabled it: not even a test is sent. Re-enable it above.' : 'Nothing is sent to it, not even a test. Activate it first.'),
			!reason && button('Activate', async () => show((await ask('PATCH', path, { body: { active: true } })).data))));
	};
	const send = async () => {
		put(result, h('p.muted.sending', 'Sending…'));
		try {
			const { data } = await ask('POST', `${path}/test`, { body: { event_type: select.value }, signal });
			put(result, shown(data));
		} catch (problem) {
			put(result, notice('.bad', 'The test was not sent', h('p', problem.message, problem.retryAfter > 0 && ` Try again in ${problem.retryAfter} s.`)));
		}
	};
	update();
	onChange(update);
	return [h('section.card', { 'aria-label': 'Test' },
		h('p.muted', 'Sends one signed request with made-up data, which appears in the log.'), asleep,
		h('form.line', { submit: (event) => { event.preventDefault(); act(control, send); } },
			h('.field', h('label', { for: 'test-type' }, 'Event type to send'), select), control)), result];
}

function shown(row) {
	const why = failure(row);
	const { headers, body, signed } = row.request;
	return section('Result',
		h('.facts', outcome(row.status), h('span', h('b', 'Status '), row.http_status ?? 'no answer'), h('span', h('b', 'Duration '), ms(row.duration_ms)), time(row.created_at)),
		why && notice('.bad', why[0], h('p', why[1])),
		snippet(row),
		block('Headers sent', Object.entries(headers).map((header) => header.join(': ')).join('\n')),
		block('Body sent', body),
		block('Signed string', signed),
		h('p.hint', h('code', 'Webhook-Signature'), ' signs the string above, ', h('code', 'X-Webhook-Signature'), ' the body alone.'));
}
