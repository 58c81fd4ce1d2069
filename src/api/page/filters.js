// The filters of the log. They stand in the address, under the API's names; this file has their form and the API's questions.
import { eventTypes } from './http.js';
import { focus, form, h, put, select, submit } from './dom.js';
import { UUID, href } from './address.js';
import { STATES } from './delivery.js';

/** Stands for every state without a success. */
const UNDELIVERED = 'undelivered';
/** What one view's filter is called in the other one. */
const SAME = { failed: UNDELIVERED, success: 'delivered', [UNDELIVERED]: 'failed', delivered: 'success' };

export const ofDeliveries = (query) => query.get('view') === 'deliveries';
/** The names of the filters that are set. */
const filters = (query) => ['id', 'event_type', 'http_status', 'from', 'to', ofDeliveries(query) ? 'state' : 'status'].filter((name) => query.get(name));
export const isFiltered = (query) => filters(query).length > 0;

/** What it means that nothing was found with these filters. */
export function nothing(query) {
	if (query.get('id')) return 'No delivery of this webhook has this ID. Enter the whole ID.';
	if (query.get('to') && query.get('from') >= query.get('to')) return '“From” must be before “To”';
	return filters(query).join() === 'state' && query.get('state') === UNDELIVERED ? 'Everything was delivered.' : 'Nothing matches these filters';
}

/** The API's parameters for the filters in `query`: of several questions, the answers stand one after the other. */
export function questions(query) {
	const { id: typed = '', ...fixed } = Object.fromEntries(filters(query).map((name) => [name, query.get(name)]));
	if (ofDeliveries(query)) fixed.view = 'deliveries';
	const id = typed.trim();
	// An event's id may look like that of a delivery.
	const ids = !id ? [{}] : [...(UUID.test(id) ? [{ delivery_id: id.toLowerCase() }] : []), { event_id: id }];
	return ids.map((one) => ({ ...fixed, ...one }));
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
		http_status: h('input', { inputmode: 'numeric' }),
		from: timeInput(), to: timeInput(),
	};
	const { event_type: types, http_status: code, from, to, ...first } = fields;
	const clear = h('a.button.clears', 'Clear'), control = submit('Find');
	const more = h('details.fold', h('summary', 'More filters'), h('.line', labelled('HTTP status', code), labelled('From', from), labelled('To', to)));
	const element = form('.filters', control, apply, Object.values(first), types, control, clear, more);
	element.setAttribute('role', 'search');

	function apply() {
		const given = Object.entries(fields).filter(([, field]) => !field.hidden).map(([name, field]) => [name, read(field)]);
		location.hash = href(id, 'logs', { view: query.get('view'), ...Object.fromEntries(given) });
	}

	function fill(name) {
		const field = fields[name], value = query.get(name) ?? '';
		field.value = field.type === 'datetime-local' ? local(value) : value;
		// The address may have what no list has.
		if (field.selectedIndex < 0) field.append(h('option', { value, selected: true }, value));
		return value;
	}

	/** Shows the filters of the address. */
	function show(now) {
		query = now;
		const held = document.activeElement;
		const given = Object.keys(fields).filter(fill);
		fields.status.hidden = ofDeliveries(query);
		fields.state.hidden = !fields.status.hidden;
		clear.hidden = !isFiltered(query);
		clear.href = everything(id, query);
		more.open ||= given.some((name) => more.contains(fields[name]));
		if (held.matches('.clears')) focus(fields.id);
	}

	eventTypes(signal).then((all) => {
		put(types, types[0], all.map(({ type }) => h('option', { value: type }, type)));
		fill('event_type');
	}, () => {});
	return { element, show };
}
