// @ts-check
// Speaks with the API: one request, one answer or one Problem. A refused token is renewed once, never in a loop.
import * as token from './token.js';

const TIMEOUT_MS = 20_000;

/** What went wrong, in words for the reader. */
export class Problem extends Error {
  /** @param {number} status 0 when no answer came @param {any} body @param {Headers} [headers] */
  constructor(status, body, headers) {
    super(body?.detail || body?.title || `The service answered ${status}.`);
    this.status = status;
    this.name = String(body?.type ?? '').split(':').pop() || 'unknown';
    /** @type {{field: string, reason: string}[]} */
    this.errors = Array.isArray(body?.errors) ? body.errors : [];
    this.requestId = body?.request_id ?? headers?.get('x-request-id') ?? null;
    this.retryAfter = Number(headers?.get('retry-after')) || 0;
  }

  /** Trying again later may help. */
  get passes() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

const signedOut = new Set();
/** @param {() => void} listener called when there is no token that the API takes */
export const onSignedOut = (listener) => signedOut.add(listener);

/**
 * @param {string} method
 * @param {string} path below /v1
 * @param {{body?: object, etag?: string | null, signal?: AbortSignal}} [options]
 * @returns {Promise<{data: any, etag: string | null}>}
 */
export async function ask(method, path, options = {}) {
  let used = token.current();
  let answer = used ? await send(method, path, options, used) : null;
  if (!answer || answer.status === 401) {
    const renewed = token.current() !== used || (await token.renew());
    used = token.current();
    if (renewed && used) answer = await send(method, path, options, used);
  }
  if (options.signal?.aborted) throw options.signal.reason;
  if (!answer || answer.status === 401) {
    // Only the token that was refused is forgotten: a newer one may have come meanwhile.
    if (token.current() === used) {
      token.forget();
      for (const listener of signedOut) listener();
    }
    throw new Problem(401, { type: 'urn:penr-webhooks:problem:unauthorized', title: 'Your session has ended.' });
  }
  return read(answer);
}

/** @param {string} method @param {string} path @param {{body?: object, etag?: string | null, signal?: AbortSignal}} options @param {string} bearer */
async function send(method, path, { body, etag, signal }, bearer) {
  /** @type {Record<string, string>} */
  const headers = { Authorization: `Bearer ${bearer}`, Accept: 'application/json' };
  if (body) headers['Content-Type'] = 'application/json';
  if (etag) headers['If-Match'] = etag;
  const timeout = AbortSignal.timeout(TIMEOUT_MS);
  try {
    return await fetch(`/v1${path}`, {
      method, headers, body: body && JSON.stringify(body), cache: 'no-store', credentials: 'omit', redirect: 'error',
      referrerPolicy: 'no-referrer', signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    const changes = method !== 'GET' ? ' It may have been carried out all the same: look before you try again.' : '';
    throw new Problem(0, { title: 'The service could not be reached.' + changes });
  }
}

/** @param {Response} answer */
async function read(answer) {
  const text = await answer.text().catch(() => '');
  let data = null;
  try {
    data = text ? JSON.parse(text) : null;
  } catch { /* A proxy's page; the status says enough. */ }
  if (!answer.ok) throw new Problem(answer.status, data, answer.headers);
  return { data, etag: answer.headers.get('etag') };
}

export const get = (/** @type {string} */ path, /** @type {AbortSignal} */ signal) => ask('GET', path, { signal });

/** @param {string} id */
export const webhookPath = (id) => `/webhooks/${encodeURIComponent(id)}`;

/** @type {any[] | null} */
let types = null;
/** The catalogue of event types, fetched once. @param {AbortSignal} signal @returns {Promise<{type: string, name: string, description: string}[]>} */
export async function eventTypes(signal) {
  types ??= (await get('/event-types', signal)).data.data;
  return types ?? [];
}
