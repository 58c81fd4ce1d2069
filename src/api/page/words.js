// Texts for times, numbers, results and errors.
import { CAUSES, STATUSES } from './advice.js';
import { h, icon } from './dom.js';

/** With the zone. */
const DATE_TIME = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'long' });
const CLOCK = new Intl.DateTimeFormat(undefined, { timeStyle: 'short' });
const NUMBER = new Intl.NumberFormat(undefined, { maximumFractionDigits: 2 });

/** The API counts what waits up to this number, for each webhook of the list. */
export const MANY = 1000;
/** So far it counts what one webhook has. */
export const MOST = 100_000;

export const number = (n) => NUMBER.format(n);
export const count = (n, one) => `${number(n)} ${n === 1 ? one : `${one.replace(/y$/, 'ie')}s`}`;
/** Deliveries that the API has counted, `more` if it may have gone on. */
export const counted = (n, more = n >= MOST) => (more ? `${number(n)} or more deliveries` : count(n, 'delivery'));
export const waits = (n) => `${counted(n)} wait${n === 1 ? 's' : ''}`;
export const ms = (n) => (n === null ? '—' : n < 1000 ? `${number(n)} ms` : `${number(n / 1000)} s`);
export const clock = (iso) => CLOCK.format(new Date(iso));

/** Local time. UTC on hover, and while the keyboard's focus is in the same row or box. */
export const time = (iso) => h('time', { datetime: iso, title: `${iso.slice(0, 19).replace('T', ' ')} UTC` }, h('span', DATE_TIME.format(new Date(iso))));

// One tab stop for each time would be many: so a row's or box's own controls show the times in it.
let shown;
addEventListener('focusout', () => shown?.classList.remove('utc'));
addEventListener('focusin', ({ target }) => {
	shown = target.matches(':focus-visible:not(h1)') ? target.closest('li, .top, .card') : null;
	shown?.classList.add('utc');
});

export const outcome = (status, text = { success: 'Success', failed: 'Failed' }[status] ?? 'No deliveries yet') =>
	h(`span.outcome.${status ?? 'none'}`, icon(status ?? 'none'), h('span', text));

/** What an attempt's error means and what to do, as two texts. */
export const failure = ({ error, error_detail: detail, http_status: code }) => error && (CAUSES[detail] ?? CAUSES[error]
	?? [`The receiver answered ${code} instead of a 2xx status.`, STATUSES[code] ?? STATUSES[`${Math.floor(code / 100)}xx`] ?? STATUSES.other]);

const KEPT = 'Events since then are kept and can be recovered.';
/** Why a webhook is disabled, or failing so that its owner was notified, as title and text; `last` is its last failed attempt. */
export function trouble({ active, failing, disabled_reason: reason }, last) {
	const why = last ? failure(last).join(' ') : '';
	if (reason === 'gone') return ['Disabled: the receiver answered 410 Gone', `A receiver answers this to get no more requests, and we send none. ${KEPT}`];
	if (reason) return ['Disabled after too many failures', `Nothing but failures for days, so we stopped. ${why} ${KEPT}`];
	if (active && failing) return ['Deliveries are failing', `${why} We keep trying for days, then disable the webhook.`];
	return null;
}
