// The filters of the log. They stand in the address, under the API's names; this file has their form and the API's questions.
import { eventTypes } from './http.js';
import { form, h, select, submit } from './dom.js';
import { UUID, href } from './address.js';
import { STATES } from './delivery.js';

/** Stands for every state without a success. */
const UNDELIVERED = 'undelivered';
/** What one view's filter is called in the other one. */
const SAME = { failed: UNDELIVERED, success: 'delivered', [UNDELIVERED]: 'failed', delivered: 'success' };

export const ofDeliveries = (query) => query.get('view') === 'deliveries';
export const isFiltered = (query) => [...query].some(([name, value]) => value && name !== 'view');

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

/** The address of the same view without filters. */
export const everything = (id, query) => href(id, 'logs', { view: query.get('view') });

/** A time as a field for local times shows it. */
export function local(iso) {
	const at = new Date(iso ?? NaN);
	return Number.isNaN(at.getTime()) ? '' : new Date(at - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

export const timeInput = (props) => h('input', { type: 'datetime-local', step: 1, max: '9999-12-31T23:59:59', ...props });
/** What a field has: a time as the API takes it, other text as it is. */
export const read = ({ type, value }) => (type === 'datetime-local' && value ? new Date(value).toISOString() : value.trim());

export const labelled = (label, input) => h('label.labelled', label, input);

export function filterForm(id, signal) {
	let query;
	const choice = (label, ...choices) => select({ 'aria-label': label, change: apply }, choices);
	const fields = {
		id: h('input', { type: 'search', 'aria-label': 'Event or delivery ID', placeholder: 'Event or delivery ID', spellcheck: 'false', autocomplete: 'off' }),
		status: choice('Status', ['', 'All statuses'], ['success', 'Success'], ['failed', 'Failed']),
		state: choice('State', ['', 'All states'], [UNDELIVERED, 'Not delivered'], ...Object.entries(STATES).map(([state, [, word]]) => [state, word])),
		event_type: choice('Event type', ['', 'All event types']),
		http_status: h('input', { type: 'number', min: 100, max: 999 }),
		from: timeInput(), to: timeInput(),
	};
	const { event_type: types, http_status: code, from, to, ...first } = fields;
	const clear = h('a.button', 'Clear'), control = submit('Find');
	const more = h('details', h('summary', 'More filters'), h('.line', labelled('HTTP status', code), labelled('From', from), labelled('To', to)));
	const element = form('.filters', control, apply, Object.values(first), types, control, clear, more);
	element.setAttribute('role', 'search');

	function apply() {
		const given = Object.entries(fields).filter(([, field]) => !field.hidden).map(([name, field]) => [name, read(field)]);
		location.hash = href(id, 'logs', { view: query.get('view'), ...Object.fromEntries(given) });
	}

	/** Shows the filters of the address. */
	function show(now) {
		query = now;
		for (const [name, field] of Object.entries(fields)) field.value = field.type === 'datetime-local' ? local(query.get(name)) : query.get(name) ?? '';
		fields.status.hidden = ofDeliveries(query);
		fields.state.hidden = !fields.status.hidden;
		clear.hidden = !isFiltered(query);
		clear.href = everything(id, query);
		more.open ||= [code, from, to].some(({ value }) => value);
	}

	eventTypes(signal).then((all) => {
		types.append(...all.map(({ type }) => h('option', { value: type }, type)));
		types.value = query.get('event_type') ?? '';
	}, () => {});
	return { element, show };
}
