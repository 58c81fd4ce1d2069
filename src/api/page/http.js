// Sends requests to the API. A refused token is renewed once per request, never in a loop.
import * as token from './token.js';
import { empty, h, link, loading, put } from './dom.js';

const TIMEOUT_MS = 20_000;
const SLOWEST_POLL_MS = 10_000;
/** The API stands beside the page, also where a proxy serves both below a prefix: this file is …/settings/webhooks/http.js. */
const API = new URL('../../v1', import.meta.url);

class Problem extends Error {
	/** `status` is 0 if no answer came. */
	constructor(status, body, headers) {
		const errors = Array.isArray(body?.errors) ? body.errors : [];
		super(errors.map(({ reason }) => reason).join('; ') || body?.detail || body?.title || `The service answered ${status}.`);
		this.status = status;
		this.errors = errors;
		this.retryAfter = Number(headers?.get('retry-after')) || 0;
		const id = body?.request_id ?? headers?.get('x-request-id');
		if (status >= 500 && id) this.message += ` (request ${id})`;
		/** Whether the same request may succeed later. */
		this.passes = [0, 408, 429].includes(status) || status >= 500;
	}
}

let signedOut = () => {};
export const onSignedOut = (listener) => { signedOut = listener; };

/** Sends a request to `path`, below /v1, and resolves to the answer's JSON. A `body` that is a string is JSON already. Throws a `Problem` if it fails. */
export async function ask(method, path, options = {}) {
	let used;
	const attempt = async () => {
		used = token.current();
		return used && send(method, path, options, used);
	};
	let answer = await attempt();
	if ((!answer || answer.status === 401) && (token.current() !== used || await token.renew())) answer = await attempt();
	options.signal?.throwIfAborted();
	if (!answer || answer.status === 401) {
		// Unless a newer token has come meanwhile.
		if (token.current() === used) {
			token.forget();
			signedOut();
		}
		throw new Problem(401, { title: 'Your session has ended.' });
	}
	if (!answer.ok) throw new Problem(answer.status, answer.content, answer.headers);
	return answer.content;
}

export const get = (path, signal) => ask('GET', path, { signal });

/**
 * Returns a function that posts a body to a path. After a failure the same path and body are sent with the same key, so that
 * a request whose answer was lost is not carried out twice.
 */
export function once() {
	let asked, key;
	return async (path, body) => {
		const now = JSON.stringify([path, body]);
		// Not crypto.randomUUID, which pages without TLS do not have.
		if (now !== asked) [asked, key] = [now, [...crypto.getRandomValues(new Uint8Array(16))].join('-')];
		const answer = await ask('POST', path, { body, headers: { 'Idempotency-Key': key } });
		asked = undefined;
		return answer;
	};
}

async function send(method, path, { body, headers = {}, signal }, bearer) {
	const ending = part(signal);
	setTimeout(() => ending.abort(), TIMEOUT_MS);
	try {
		const answer = await fetch(API + path, {
			method, body: typeof body === 'string' ? body : JSON.stringify(body),
			headers: { Authorization: `Bearer ${bearer}`, ...(body && { 'Content-Type': 'application/json' }), ...headers },
			cache: 'no-store', credentials: 'omit', redirect: 'error', signal: ending.signal,
		});
		// A success that breaks off is no answer, nor is what a proxy says to a GET. Another error may be a proxy's, which is no JSON.
		answer.content = await answer.json().catch((problem) => { if (method === 'GET' || (answer.ok && answer.status !== 204)) throw problem; });
		return answer;
	} catch {
		signal?.throwIfAborted();
		const look = method === 'GET' ? '' : headers['Idempotency-Key'] ? ' Try again: it is done only once.' : ' It may have been done all the same: look before you try again.';
		throw new Problem(0, { title: `The service could not be reached.${look}` });
	}
}

/** A controller of its own for a part of what `signal`, if given, ends. Some browsers have no AbortSignal.any. */
export function part(signal) {
	const own = new AbortController();
	if (signal?.aborted) own.abort();
	signal?.addEventListener('abort', () => own.abort(), { signal: own.signal });
	return own;
}

export const webhookPath = (id) => `/webhooks/${encodeURIComponent(id)}`;

let types;
/** The catalogue of event types, fetched once. */
export const eventTypes = async (signal) => (types ??= (await get('/event-types', signal)).data);

const broken = (problem) => (problem.status === 404
	? empty('This webhook does not exist', h('p', 'It was deleted, or belongs to another account.'), link('All webhooks', ''))
	: empty('This could not be loaded', h('p', problem.message)));

const outage = document.getElementById('outage');

function sayOutage(text) {
	if (outage.textContent !== text) put(outage, text);
	outage.hidden = !text;
}

/**
 * Runs `work` now and again `ms` after each end, while the page is visible; with 0 ms only until it has succeeded once. A
 * problem that may pass is retried, any other one is shown in `place`, which says that it is loading while it is empty. Returns a
 * function that runs `work` at once.
 */
export function poll(place, ms, signal, work) {
	let timer, failures = 0, running = false, over = false;
	if (!place.firstChild) put(place, loading());
	const run = async () => {
		clearTimeout(timer);
		if (running || over || signal.aborted || document.hidden) return;
		running = true;
		let wait = ms;
		try {
			await work();
			if (failures) sayOutage('');
			failures = 0;
			over = !ms;
		} catch (problem) {
			if (signal.aborted) return;
			over = !problem.passes;
			if (over) return put(place, broken(problem));
			failures += 1;
			if (problem.status === 429) sayOutage('Updates pause for a moment.');
			else if (failures > 1) sayOutage('The service is not available right now. What you see may be out of date.');
			wait = Math.max(Math.min(500 * 2 ** failures, SLOWEST_POLL_MS), Math.min(problem.retryAfter, 60) * 1000);
		} finally {
			running = false;
		}
		timer = setTimeout(run, wait);
	};
	document.addEventListener('visibilitychange', run, { signal });
	signal.addEventListener('abort', () => {
		clearTimeout(timer);
		if (failures) sayOutage('');
	});
	run();
	return run;
}
