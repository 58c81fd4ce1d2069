// Keeps the bearer token, in memory only. It comes in the address's fragment, which is erased at once; the framing page
// renews it. This file imports nothing, so that nothing delays the erasing.

/** The token is renewed this long before it expires, or at half its life if that is later. */
const RENEW_MS_BEFORE = 60_000;
const HOST_ANSWERS_WITHIN_MS = 8000;

let token = '';
let asking = null;
let renewal = 0;
const listeners = new Set();

const hosts = document.querySelector('meta[name=host-origins]').content.split(' ').filter(Boolean);
export const hasHost = parent !== window && hosts.length > 0;

export const current = () => token;
/** Calls `listener` for every new token. */
export const onToken = (listener) => listeners.add(listener);

export function forget() {
	token = '';
	clearTimeout(renewal);
}

export function takeFromAddress() {
	const given = /^#token=([^&]*)/.exec(location.hash);
	if (!given) return;
	history.replaceState(null, '', location.pathname + location.search + '#/webhooks');
	adopt(given[1]);
}

/** Asks the framing page for a token; resolves to whether one came. */
export function renew() {
	if (!hasHost) return Promise.resolve(false);
	asking ??= new Promise((resolve) => {
		const done = (came) => {
			clearTimeout(timer);
			listeners.delete(received);
			asking = null;
			resolve(came);
		};
		const received = () => done(true);
		const timer = setTimeout(done, HOST_ANSWERS_WITHIN_MS, false);
		listeners.add(received);
		for (const host of hosts) parent.postMessage({ type: 'penr-webhooks:token-needed' }, host);
	});
	return asking;
}

function adopt(given) {
	if (!given) return;
	token = given;
	clearTimeout(renewal);
	const left = expiry(given) * 1000 - Date.now();
	if (hasHost && left > 0) renewal = setTimeout(renew, Math.min(Math.max(left - RENEW_MS_BEFORE, left / 2), 86_400_000));
	for (const listener of [...listeners]) listener();
}

function expiry(jwt) {
	try {
		return JSON.parse(atob(jwt.split('.')[1].replace(/-/g, '+').replace(/_/g, '/'))).exp;
	} catch {
		return NaN;
	}
}

addEventListener('message', ({ source, origin, data }) => {
	if (!hasHost || source !== parent || !hosts.includes(origin)) return;
	if (data?.type === 'penr-webhooks:token' && typeof data.token === 'string') adopt(data.token);
});

takeFromAddress();
