// Keeps the bearer token, in memory only. It comes in the address's fragment, out of which index.html takes it at once, or
// from the framing page, which also renews it.
import { hasHost, isRoute, onMessage, tell } from './embed.js';

/** The token is renewed this long before it expires, or at half its life if that is later. */
const RENEW_MS_BEFORE = 60_000;
const HOST_ANSWERS_WITHIN_MS = 8000;

let token = '';
let asking = null, renewal = 0;
let came = () => {}, answered = () => {};

export const current = () => token;
/** Calls `listener` for every new token. */
export const onToken = (listener) => { came = listener; };

export function forget() {
	token = '';
	clearTimeout(renewal);
}

/** `#token=…`, with `&route=/webhooks/…`, encoded or not, behind it if another view than the list is wanted. */
export function takeFromAddress(fragment = location.hash) {
	const given = /^#token=([^&]*)(?:&route=(.*))?/.exec(fragment);
	if (!given) return;
	// An encoded route has no & of its own.
	const route = [given[2], new URLSearchParams(fragment).get('route')].find(isRoute);
	history.replaceState(null, '', `#${route ?? '/webhooks'}`);
	adopt(given[1]);
}

/** Asks the framing page for a token; resolves to whether one came. */
export async function renew() {
	if (!hasHost) return false;
	asking ??= new Promise((resolve) => {
		answered = resolve;
		setTimeout(resolve, HOST_ANSWERS_WITHIN_MS, false);
		tell('token-needed');
	}).finally(() => { asking = null; });
	return asking;
}

function adopt(given) {
	if (!given) return;
	token = given;
	clearTimeout(renewal);
	const left = expiry(given) * 1000 - Date.now();
	if (hasHost && left > 0) renewal = setTimeout(renew, Math.min(Math.max(left - RENEW_MS_BEFORE, left / 2), 86_400_000));
	answered(true);
	came();
}

function expiry(jwt) {
	try {
		return JSON.parse(atob(jwt.split('.')[1].replace(/-/g, '+').replace(/_/g, '/'))).exp;
	} catch {
		return NaN;
	}
}

onMessage('token', (given) => { if (typeof given.token === 'string') adopt(given.token); });

takeFromAddress(window.handed);
delete window.handed;
