// Texts for times, numbers, results and errors.
import { h, icon } from './dom.js';

const DATE_TIME = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });
const CLOCK = new Intl.DateTimeFormat(undefined, { timeStyle: 'short' });
const NUMBER = new Intl.NumberFormat();

export const number = (n) => NUMBER.format(n);
export const count = (n, one) => `${number(n)} ${n === 1 ? one : `${one.replace(/y$/, 'ie')}s`}`;
export const ms = (n) => (n === null ? '—' : `${number(n)} ms`);
export const clock = (iso) => CLOCK.format(new Date(iso));

/** Local time; UTC on hover. */
export const time = (iso) => h('time', { datetime: iso, title: iso.replace('T', ' ').replace('Z', ' UTC') }, DATE_TIME.format(new Date(iso)));

export const outcome = (status, text = { success: 'Success', failed: 'Failed' }[status] ?? 'No deliveries yet') =>
	h(`span.outcome.${status ?? 'none'}`, icon(status ?? 'none'), h('span', text));

const ERRORS = {
	blocked_address: ['The host leads to an address that may not be called.', 'Use one that is reachable from the public internet.'],
	invalid_url: ['The URL is not accepted any more.', 'Save another one in the settings.'],
	dns: ['The host name could not be resolved.', 'Check its spelling in the URL, and its DNS records.'],
	connect: ['No connection could be made.', 'Check that the server runs, its port is open, and no firewall keeps us out.'],
	tls: ['No secure connection could be made.', 'Check that the certificate is valid, covers this host, and comes with its intermediates.'],
	timeout: ['No answer came in time.', 'Answer with a 2xx status first and do the work afterwards.'],
	protocol: ['The answer was not valid HTTP.', 'Check that an HTTP server, and nothing else, listens at this port.'],
	internal: ['Something failed on our side.', 'Nothing for you to do: it will be repeated.'],
};

/** What an attempt's error means and what to do, as two sentences. */
export const failure = ({ error, http_status: code }) => error && (ERRORS[error] ?? [`The receiver answered ${code} instead of a 2xx status.`,
	ADVICE[code] ?? ADVICE[Math.floor(code / 100)] ?? 'Answer with 200 to 299 once the event is accepted.']);

const LOGIN = 'It refused us, or a firewall before it. Let us in without a login and verify the signature instead.';
const ADVICE = {
	3: 'Redirects are not followed: save the final address as the URL.',
	5: 'The receiver failed: look at its own log for this time.',
	400: 'Often the receiver verifies the parsed body instead of the raw bytes.',
	401: LOGIN,
	403: LOGIN,
	404: 'There is nothing at this path: check the URL.',
	405: 'This path takes no POST requests: check the URL.',
	410: 'It wants nothing any more; this answer to a delivery disables the webhook.',
	429: 'The receiver wants fewer requests: raise its limit, or answer with Retry-After.',
};

const KEPT = 'Events since then are kept and can be recovered.';
/** Why a webhook is disabled or failing, as title and text; `last` is its last failed attempt. */
export function trouble({ active, disabled_reason: reason, failing_since: failing }, last) {
	const why = last ? failure(last)[0] : '';
	if (reason === 'gone') return ['Disabled: the receiver answered 410 Gone', `So it wants no more requests, and we stopped. ${KEPT}`];
	if (reason) return ['Disabled after too many failures', `Nothing but failures for days, so we stopped. ${why} ${KEPT}`];
	if (active && failing) return ['Deliveries are failing', `${why || 'The last attempts failed.'} We keep trying for days, then disable the webhook.`];
	return null;
}
