// @ts-check
// Says times, numbers, outcomes and reasons in words.
import { h, icon } from './dom.js';

const DATE_TIME = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });
const CLOCK = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });
const RELATIVE = new Intl.RelativeTimeFormat(undefined, { numeric: 'auto' });
const NUMBER = new Intl.NumberFormat();

/** @param {number} n */
export const number = (n) => NUMBER.format(n);
/** @param {string | number} iso */
export const clock = (iso) => CLOCK.format(new Date(iso));
/** @param {number} n @param {string} one @param {string} [many] */
export const count = (n, one, many = one + 's') => `${number(n)} ${n === 1 ? one : many}`;
/** @param {string} iso */
export const local = (iso) => DATE_TIME.format(new Date(iso));

/** Local time, UTC on hover. @param {string} iso */
export const time = (iso) => h('time', { datetime: iso, title: utc(iso) }, local(iso));
/** @param {string} iso */
export const utc = (iso) => iso.replace('T', ' ').replace('Z', ' UTC');

/** As `time`, but "2 minutes ago", kept right by a ticker. @param {string} iso */
export const ago = (iso) => h('time', { datetime: iso, title: `${local(iso)} · ${utc(iso)}`, 'data-ago': true }, relative(iso));

/** @param {string} iso */
function relative(iso) {
  const seconds = (Date.parse(iso) - Date.now()) / 1000;
  const size = Math.abs(seconds);
  if (size < 60) return seconds > 0 ? 'in less than a minute' : 'just now';
  if (size < 3600) return RELATIVE.format(Math.round(seconds / 60), 'minute');
  if (size < 86_400) return RELATIVE.format(Math.round(seconds / 3600), 'hour');
  return RELATIVE.format(Math.round(seconds / 86_400), 'day');
}

setInterval(() => {
  for (const element of document.querySelectorAll('time[data-ago]')) {
    element.textContent = relative(element.getAttribute('datetime') ?? '');
  }
}, 15_000);

/** Colour, shape and text. @param {'success' | 'failed' | null} status */
export const outcome = (status, text = status === 'success' ? 'Success' : status === 'failed' ? 'Failed' : 'No deliveries yet') =>
  h('span', { class: `outcome ${status ?? 'none'}` }, icon(status ?? 'none'), h('span', {}, text));

/** @type {Record<string, [string, string]>} */
const ERRORS = {
  blocked_address: ['The host leads to an address that may not be called.', 'Use a host that is reachable from the public internet, not one inside a private network.'],
  invalid_url: ['The URL is not accepted any more.', 'Open Settings and save a URL that is accepted.'],
  dns: ['The host name could not be resolved.', 'Check the spelling of the host in the URL, and its DNS records.'],
  connect: ['No connection could be made.', 'Check that the server is running, that its port is open, and that no firewall keeps us out.'],
  tls: ['No secure connection could be made.', 'Check that the certificate is valid today, covers this host name, and is sent with its intermediate certificates.'],
  timeout: ['No answer came in time.', 'Answer with a 2xx status first and do the work afterwards; we wait 5 seconds.'],
  protocol: ['The answer was not valid HTTP.', 'Check that an HTTP server, not something else, listens at this port.'],
  internal: ['Something failed on our side.', 'There is nothing for you to do: this costs no attempt and will be repeated.'],
};

/** What an attempt's error means and what to do. @param {{error: string | null, http_status: number | null}} row @returns {[string, string] | null} */
export function failure({ error, http_status: code }) {
  if (!error) return null;
  if (error !== 'http_status' || !code) return ERRORS[error] ?? [`It failed (${error}).`, 'Look at the receiver’s own log for this time.'];
  return [`The receiver answered ${code} instead of a 2xx status.`, advice(code)];
}

/** @param {number} code */
function advice(code) {
  if (code < 200) return 'Answer with a final status: 200 to 299 is a success.';
  if (code < 400) return 'Redirects are not followed: save the final address as the URL of this webhook.';
  if (code === 400 || code === 422) return 'The receiver did not like the request. Often its signature check reads a parsed body instead of the raw bytes.';
  if (code === 401 || code === 403) return 'The receiver, or a firewall before it, refused us. Let the request in without a login and verify its signature instead.';
  if (code === 404) return 'There is nothing at this path: check the path of the URL.';
  if (code === 405) return 'The path does not take POST requests: check the URL, or the routes of the receiver.';
  if (code === 410) return '410 means that this receiver wants nothing any more, and disables the webhook. Answer otherwise if that is not meant.';
  if (code === 413) return 'The receiver takes no bodies of this size: raise its limit.';
  if (code === 429) return 'The receiver wants fewer requests: raise its limit, or answer with Retry-After.';
  if (code >= 500) return 'The receiver failed: look at its own log for this time.';
  return 'Answer with a status from 200 to 299 when the event is accepted.';
}

/** Why a webhook is off, or in trouble, for its banner. @param {any} webhook @param {any} [last] its last failed attempt */
export function trouble(webhook, last) {
  const why = last && failure(last)?.[0];
  if (webhook.disabled_reason === 'gone') {
    return { title: 'Disabled: the receiver answered 410 Gone', text: 'A receiver says with 410 that it wants no more requests, so we stopped sending. Events since then are kept and can be recovered.' };
  }
  if (webhook.disabled_reason) {
    return { title: 'Disabled after too many failures', text: `Nothing but failures for days, so we stopped sending.${why ? ` The last one: ${why}` : ''} Events since then are kept and can be recovered.` };
  }
  if (webhook.active && webhook.failing_since) {
    return { title: 'Deliveries are failing', text: `${why ?? 'The last attempts failed.'} We keep trying, and disable the webhook if nothing succeeds for days.` };
  }
  return null;
}
