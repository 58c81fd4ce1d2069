// The tab Test: shows the event that it sends, which can be edited, and beside it the request and the answer.
import { ask, eventTypes, poll } from './http.js';
import { announce, block, button, form, h, notice, put, section, select, sentence, submit } from './dom.js';
import { activate } from './switch.js';
import { textField } from './fields.js';
import { attempt, lines } from './delivery.js';
import { ms } from './words.js';

export function testTab(body, tab) {
	poll(body, 0, tab.signal, async () => put(body, tester(await eventTypes(tab.signal), tab)));
}

/** The data to send: for each type its example, until the reader edits it. */
function dataField(types, type, edited) {
	const examples = new Map(types.map((one) => [one.type, JSON.stringify(one.example ?? {}, null, 2)]));
	const field = textField('test-data', 'Data to send', '', 'JSON: the data of the event. The event around it is made when it is sent.',
		{ rows: 12, input: () => edited.set(type.value, field.input.value) && settle() }, 'textarea');
	const back = button('Back to the example', () => {
		edited.delete(type.value);
		fill();
		field.input.focus();
	});
	const settle = () => {
		field.says('');
		back.hidden = !edited.has(type.value);
	};
	const fill = () => {
		field.input.value = edited.get(type.value) ?? examples.get(type.value);
		settle();
	};
	/** The request as JSON text; null after telling the reader what is wrong. Without `data` the service sends its example. */
	function request() {
		const data = edited.get(type.value), named = `"event_type":${JSON.stringify(type.value)}`;
		if (data === undefined) return `{${named}}`;
		try {
			JSON.parse(data);
		} catch (problem) {
			field.says(`This is not JSON: ${problem.message}`);
			field.input.focus();
			return null;
		}
		// As it is written: parsed and written again, long numbers would be others.
		return `{${named},"data":${data}}`;
	}
	type.addEventListener('change', fill);
	fill();
	return { element: field.element, back, request };
}

function tester(types, { path, signal, edited, webhook, onChange, show }) {
	const type = select({ id: 'test-type' }, types.map((one) => [one.type, `${one.name} (${one.type})`]));
	type.value = (types.find((one) => one.type === webhook().events[0]) ?? types[0]).type;
	const data = dataField(types, type, edited);
	const result = h('div');
	const control = submit('Send');
	const asleep = h('div');
	const update = () => {
		const { active, held_since: held, disabled_reason: reason } = webhook();
		control.disabled = !active || held;
		put(asleep, active ? held && notice('', 'A webhook on hold cannot be tested') : notice('', 'An inactive webhook cannot be tested',
			reason ? h('p', 'Re-enable it above.') : button('Activate', async () => show(await activate(webhook(), true)))));
	};
	const send = async () => {
		const body = data.request();
		if (!body) return;
		put(result, h('p.muted', 'Sending…'));
		const tell = (found, said) => {
			if (signal.aborted) return;
			put(result, found);
			announce(said);
		};
		try {
			// Without `signal`: a test that is under way is not aborted when the reader leaves the tab.
			const row = await ask('POST', `${path}/test`, { body });
			tell(shown(row), `${row.status === 'success' ? 'Success' : 'Failed'}${row.http_status ? `, HTTP ${row.http_status}` : ''}, ${ms(row.duration_ms)}`);
		} catch (problem) {
			const why = sentence(problem.message);
			tell(notice('.bad', 'There is no result of the test', h('p', why, problem.retryAfter > 0 && ` Try again in ${problem.retryAfter} s.`)), `There is no result of the test. ${why}`);
		}
	};
	update();
	onChange(update);
	return h('.tester', h('section.card', { 'aria-label': 'Test' },
		h('p.muted', 'Sends one signed request with made-up data, which appears in the log.'), asleep,
		form('', control, send, h('.field', h('label', { for: 'test-type' }, 'Event type to send'), type), data.element, h('.actions', data.back, control))), result);
}

const shown = ({ request, ...row }) => section('Result', attempt(row),
	request && [block('Headers sent', lines(request.headers)),
		block('Body sent', request.body),
		block('Signed string', request.signed),
		h('p.hint', h('code', 'Webhook-Signature'), ' signs the string above, ', h('code', 'X-Webhook-Signature'), ' the body alone.')]);
