// The filters of the log. They stand in the address, under the API's names; this file has their form and the API's questions.
import { eventTypes } from './http.js';
import { h, put, submit } from './dom.js';
import { href } from './address.js';
import { STATES } from './delivery.js';

/** Stands for every state without a success. */
const UNDELIVERED = 'undelivered';
const UUID = /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/i;
/** What one view's filter is called in the other one. */
const SAME = { failed: UNDELIVERED, success: 'delivered', [UNDELIVERED]: 'failed', delivered: 'success' };
const FIELDS = ['id', 'status', 'state', 'event_type', 'http_status', 'from', 'to'];

export const ofDeliveries = (query) => query.get('view') === 'deliveries';
export const isFiltered = (query) => FIELDS.some((name) => query.get(name));

/** The API's parameters for the filters in `query`: of several questions, the answers stand one after the other. */
export function questions(query) {
	const fixed = {};
	for (const name of ['event_type', 'http_status', 'from', 'to', ofDeliveries(query) ? 'view' : 'status']) {
		if (query.get(name)) fixed[name] = query.get(name);
	}
	const id = query.get('id');
	// An event's id may look like that of a delivery.
	const ids = !id ? [{}] : [...(UUID.test(id) ? [{ delivery_id: id.toLowerCase() }] : []), { event_id: id }];
	const state = ofDeliveries(query) && query.get('state');
	const states = state === UNDELIVERED ? Object.keys(STATES).filter((one) => one !== 'delivered') : [state];
	return ids.flatMap((one) => states.map((other) => ({ ...fixed, ...one, ...(other && { state: other }) })));
}

/** The address of the other view with the same filters, as far as it has them. */
export function seenAs(id, view, query) {
	const { status, state, ...same } = Object.fromEntries(query);
	const other = ofDeliveries(query) === (view === 'deliveries') ? { status, state }
		: view ? { state: SAME[status] } : { status: SAME[state] };
	return href(id, 'logs', { ...same, ...other, view });
}

/** A time as a field for local times shows it. */
export function local(iso) {
	const at = new Date(iso ?? NaN);
	return Number.isNaN(at.getTime()) ? '' : new Date(at - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

export const timeField = (label, value = '', props = {}) => {
	const input = h('input', { type: 'datetime-local', step: 1, max: '9999-12-31T23:59:59', value, ...props });
	return { input, element: h('label.labelled', label, input), iso: () => input.value && new Date(input.value).toISOString() };
};

export function filterForm(id) {
	let query = new URLSearchParams();
	const select = (label, every, options) => h('select', { 'aria-label': label, change: apply },
		h('option', { value: '' }, every), options.map(([value, text]) => h('option', { value }, text)));
	const from = timeField('From'), to = timeField('To');
	const fields = {
		id: h('input', { type: 'search', 'aria-label': 'Event or delivery ID', placeholder: 'Event or delivery ID', spellcheck: 'false', autocomplete: 'off' }),
		status: select('Status', 'All statuses', [['success', 'Success'], ['failed', 'Failed']]),
		state: select('State', 'All states', [[UNDELIVERED, 'Not delivered'], ...Object.entries(STATES).map(([state, [, word]]) => [state, word])]),
		event_type: select('Event type', 'All event types', []),
		http_status: h('input', { type: 'number', min: 100, max: 999 }),
		from: from.input, to: to.input,
	};
	const clear = h('a.button', 'Clear');
	const more = h('details', h('summary', 'More filters'),
		h('.line', h('label.labelled', 'HTTP status', fields.http_status), from.element, to.element));
	const element = h('form.filters', { role: 'search', 'aria-label': 'Filters', novalidate: true, submit: (event) => { event.preventDefault(); apply(); } },
		fields.id, fields.status, fields.state, fields.event_type, submit('Find'), clear, more);

	function apply() {
		const given = Object.fromEntries(Object.entries(fields).filter(([, field]) => !field.hidden).map(([name, field]) => [name, field.value.trim()]));
		location.hash = href(id, 'logs', { view: query.get('view'), ...given, from: from.iso(), to: to.iso() });
	}

	/** Shows the filters of the address. */
	function show(now) {
		query = now;
		for (const [name, field] of Object.entries(fields)) field.value = field.type === 'datetime-local' ? local(query.get(name)) : query.get(name) ?? '';
		fields.status.hidden = ofDeliveries(query);
		fields.state.hidden = !fields.status.hidden;
		clear.hidden = !isFiltered(query);
		clear.href = href(id, 'logs', { view: query.get('view') });
		more.open ||= ['http_status', 'from', 'to'].some((name) => query.get(name));
	}

	return {
		element, show,
		focus: () => (ofDeliveries(query) ? fields.state : fields.status).focus(),
		/** Fills the list of event types. */
		async load(signal) {
			const types = await eventTypes(signal);
			fields.event_type.append(...types.map(({ type }) => h('option', { value: type }, type)));
			fields.event_type.value = query.get('event_type') ?? '';
		},
	};
}
