// The tab Test: shows the event that it sends, which can be edited, and beside it the request and the answer.
import { ask, eventTypes, poll } from './http.js';
import { act, block, button, h, loading, notice, put, section, submit } from './dom.js';
import { activate } from './switch.js';
import { textField } from './form.js';
import { sentence } from './list.js';
import { attempt, lines } from './delivery.js';

export function testTab(body, tab) {
	put(body, loading());
	poll(body, 0, tab.signal, async () => put(body, tester(await eventTypes(tab.signal), tab)));
}

/** The data to send: for each type its example, until the reader edits it. */
function dataField(types, select) {
	const examples = new Map(types.map(({ type, example }) => [type, JSON.stringify(example ?? {}, null, 2)]));
	const edited = new Map();
	const field = textField('test-data', 'Data to send', '', 'JSON: the data of the event. The event around it is made when it is sent.',
		{ rows: 12, input: () => edited.set(select.value, field.input.value) && settle() }, 'textarea');
	const back = button('Back to the example', () => {
		edited.delete(select.value);
		fill();
		field.focus();
	});
	function fill() {
		field.input.value = edited.get(select.value) ?? examples.get(select.value);
		settle();
	}
	function settle() {
		field.says('');
		back.hidden = !edited.has(select.value);
	}
	/** The request as JSON text; null after telling the reader what is wrong. Without `data` the service sends its example. */
	function request() {
		const text = field.value(), type = `"event_type":${JSON.stringify(select.value)}`;
		if (!edited.has(select.value)) return `{${type}}`;
		try {
			JSON.parse(text);
		} catch (problem) {
			field.says(`This is not JSON: ${problem.message}`);
			field.focus();
			return null;
		}
		// As it is written: parsed and written again, long numbers would be others.
		return `{${type},"data":${text}}`;
	}
	select.addEventListener('change', fill);
	fill();
	return { element: field.element, back, request };
}

function tester(types, { path, signal, webhook, onChange, show }) {
	const select = h('select', { id: 'test-type' },
		types.map(({ type, name }) => h('option', { value: type, selected: type === webhook().events[0] }, `${name} (${type})`)));
	const data = dataField(types, select);
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
		const body = data.request();
		if (!body) return;
		put(result, h('p.muted', 'Sending…'));
		const tell = (found) => signal.aborted || put(result, found);
		try {
			// Without `signal`: a test that is under way is not aborted when the reader leaves the tab.
			tell(shown(await ask('POST', `${path}/test`, { body })));
		} catch (problem) {
			const why = problem.errors.map(({ reason }) => sentence(reason)).join(' ') || problem.message;
			tell(notice('.bad', 'There is no result of the test', h('p', why, problem.retryAfter > 0 && ` Try again in ${problem.retryAfter} s.`)));
		}
	};
	update();
	onChange(update);
	return h('.tester', h('section.card', { 'aria-label': 'Test' },
		h('p.muted', 'Sends one signed request with made-up data, which appears in the log.'), asleep,
		h('form', { novalidate: true, submit: (event) => { event.preventDefault(); act(control, send); } },
			h('.field', h('label', { for: 'test-type' }, 'Event type to send'), select),
			data.element,
			h('.actions', data.back, control))), result);
}

const shown = ({ request, ...row }) => section('Result', attempt(row),
	request && [block('Headers sent', lines(request.headers)),
		block('Body sent', request.body),
		block('Signed string', request.signed),
		h('p.hint', h('code', 'Webhook-Signature'), ' signs the string above, ', h('code', 'X-Webhook-Signature'), ' the body alone.')]);
