// The tab Test: sends a test event, and shows the request and the answer.
import { ask, eventTypes, poll } from './http.js';
import { act, block, button, h, loading, notice, put, section, submit } from './dom.js';
import { activate } from './switch.js';
import { attempt } from './logs.js';

export function testTab(body, tab) {
	put(body, loading());
	poll(body, 0, tab.signal, async () => put(body, tester(await eventTypes(tab.signal), tab)));
}

function tester(types, { path, signal, webhook, onChange, show }) {
	const select = h('select', { id: 'test-type' },
		types.map(({ type, name }) => h('option', { value: type, selected: type === webhook().events[0] }, `${name} (${type})`)));
	const result = h('div', { 'aria-live': 'polite' });
	const control = submit('Send');
	const asleep = h('div');
	const update = () => {
		const { active, disabled_reason: reason } = webhook();
		control.disabled = !active;
		put(asleep, !active && notice('', 'An inactive webhook cannot be tested',
			h('p', 'Nothing is sent to it, not even a test.', reason && ' Re-enable it above.'),
			!reason && button('Activate', async () => show(await activate(webhook(), true)))));
	};
	const send = async () => {
		put(result, h('p.muted', 'Sending…'));
		const tell = (found) => signal.aborted || put(result, found);
		try {
			// Without `signal`: a test that is under way is not aborted when the reader leaves the tab.
			tell(shown(await ask('POST', `${path}/test`, { body: { event_type: select.value } })));
		} catch (problem) {
			tell(notice('.bad', 'There is no result of the test', h('p', problem.message, problem.retryAfter > 0 && ` Try again in ${problem.retryAfter} s.`)));
		}
	};
	update();
	onChange(update);
	return [h('section.card', { 'aria-label': 'Test' },
		h('p.muted', 'Sends one signed request with made-up data, which appears in the log.'), asleep,
		h('form.line', { submit: (event) => { event.preventDefault(); act(control, send); } },
			h('.field', h('label', { for: 'test-type' }, 'Event type to send'), select), control)), result];
}

const shown = ({ request, ...row }) => section('Result', attempt(row),
	request && [block('Headers sent', Object.entries(request.headers).map((header) => header.join(': ')).join('\n')),
		block('Body sent', request.body),
		block('Signed string', request.signed),
		h('p.hint', h('code', 'Webhook-Signature'), ' signs the string above, ', h('code', 'X-Webhook-Signature'), ' the body alone.')]);
