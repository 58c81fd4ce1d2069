// Checks the signatures of a request that the reader pastes, in the browser, and names the usual mistakes.
import { form, h, put, section, submit } from './dom.js';
import { textField } from './fields.js';
import { count, outcome, time } from './words.js';

const ID = 'webhook-id', SENT = 'webhook-timestamp';
/** Libraries refuse requests that are older. */
const OLDEST_MS = 300_000;

/** `own` resolves to the secret of `webhook()`. What is pasted is sent nowhere. */
export function checker(own, { signal, webhook }) {
	const title = 'Check a signature';
	if (!globalThis.crypto?.subtle) return section(title, h('p.muted', 'A browser can do this only on a page that was opened over https.'));
	const field = (name, hint, kind = 'textarea', props = { rows: 3 }) => textField(`check-${name.toLowerCase()}`, name, '', hint, { required: false, ...props }, kind);
	const fields = [
		field('Headers', 'X-Webhook-Signature, or Webhook-Signature with Webhook-Id and Webhook-Timestamp.'),
		field('Body', 'As it arrived, before anything parsed it.'),
		field('Secret', 'Empty: the secret of this webhook.', 'input', { type: 'password' }),
	];
	signal.addEventListener('abort', () => { fields[2].input.value = ''; });
	const control = submit('Check'), result = h('div', { role: 'status' });
	const check = async () => {
		const [headers, body, secret] = fields.map(({ input }) => input.value), given = secret.trim();
		// A token that may only read gets no secret.
		const current = await own().catch((problem) => { if (!given) throw problem; });
		put(result, await judge(parse(headers), body, given || current, current, webhook().previous_valid_until));
	};
	return section(title, h('p.muted', 'Paste a request that your receiver refused. It stays in this browser.'),
		form('', control, check, fields.map(({ element }) => element), h('.actions', control)), result);
}

const NAMED = /(x[-_]webhook[-_]signature|webhook[-_](?:signature|id|timestamp))[\\"'\]]*(?:\s*(?:[:=]>?|,)|\s)[\s\\"'[(]*((?:v\d\w*,[\w+/=]+ ?)+|[^\s\\"',\])}]+)/gi;
const NAMELESS = /^[\s"']*(?:(v1,[\w+/=, ]+)|([\da-f]{64}))[\s"',;]*$/mi;

/** The headers, by their names in lower case, of whatever shows them. A signature may stand alone on a line, without its name. */
function parse(text) {
	const found = {};
	for (const [, name, value] of text.matchAll(NAMED)) found[name.toLowerCase().replaceAll('_', '-')] ??= value.trim();
	const [, rotation, simple] = NAMELESS.exec(text) ?? [];
	return 'x-webhook-signature' in found || 'webhook-signature' in found ? found : { ...found, 'webhook-signature': rotation?.trim(), 'x-webhook-signature': simple };
}

/** `current`, if it is known, is the secret that the webhook has now; `until` says how long the old one is valid. */
async function judge(headers, body, secret, current, until) {
	if (!secret.startsWith('whsec_')) return failed('This is no secret of ours', 'Each begins with whsec_.');
	const names = Object.keys(SIGNATURES).filter((name) => headers[name.toLowerCase()]);
	if (!names.length) return failed('There is no signature in this text', 'A request with neither header is not ours.');
	const wrong = await Promise.all(names.map((name) => mistake(name, { headers, body, secret, current })));
	return [
		names.map((name, i) => wrong[i] ?? h('p', outcome('success', `${name} is right`))),
		wrong.includes(null) && h('p.hint', age(headers[SENT]),
			current && secret !== current && ['It fits the secret that you entered, which is not the webhook’s newest', new Date(until) > Date.now() && [': the old one is valid until ', time(until)], '. '],
			'If your receiver refuses it, it has another secret, or hashes a parsed body.'),
	];
}

/** What is wrong with a signature, or null. */
async function mistake(name, { headers, body, secret, current }) {
	const given = headers[name.toLowerCase()].split(' ');
	// A secret that is no base64 signs nothing.
	const fits = async (key, text) => given.includes(await SIGNATURES[name](headers, key, text).catch(() => null));
	const wrong = (why) => failed(`${name} does not fit`, why);
	if (name === 'Webhook-Signature' && !(headers[ID] && headers[SENT])) return failed(`${name} cannot be checked`, 'It signs Webhook-Id and Webhook-Timestamp, too: paste both.');
	if (await fits(secret, body)) return null;
	for (const [text, why] of changes(body)) if (await fits(secret, text)) return wrong(why);
	if (current && await fits(current, body)) return wrong('Another secret: it was signed with the one that the webhook has now.');
	return wrong(body.startsWith('{"id":"')
		? 'The body is not what we sent, the secret is an older one, or the header is of another request.'
		: 'The body was parsed and written again: ours begins with {"id":" without blanks.');
}

/** The body as it may have been before what often happens to it, and what that was. */
function* changes(body) {
	yield [body.trim(), 'The body has a blank or a line break at its beginning or end that we did not send.'];
	try {
		yield [JSON.stringify(JSON.parse(body)), 'The body was parsed and written again.'];
	} catch {
		// It is no JSON.
	}
}

/** What each header has for a secret and a body. */
const SIGNATURES = {
	'X-Webhook-Signature': async (headers, secret, body) => (await hmac(bytes(secret), body)).map((byte) => byte.toString(16).padStart(2, '0')).join(''),
	'Webhook-Signature': async (headers, secret, body) => {
		const key = Uint8Array.from(atob(secret.slice(6)), (char) => char.charCodeAt());
		return `v1,${btoa(String.fromCharCode(...await hmac(key, `${headers[ID]}.${headers[SENT]}.${body}`)))}`;
	},
};

async function hmac(key, text) {
	const own = await crypto.subtle.importKey('raw', key, { name: 'HMAC', hash: 'SHA-256' }, false, ['sign']);
	return [...new Uint8Array(await crypto.subtle.sign('HMAC', own, bytes(text)))];
}

const bytes = (text) => new TextEncoder().encode(text);

function age(sent) {
	const at = sent * 1000, ms = Date.now() - at;
	return Math.abs(ms) > OLDEST_MS && ['It was sent ', time(new Date(at).toISOString()), ms > 0 && ` (${span(ms / 60_000)} ago)`,
		': code that checks the time refuses it now. If it did so when it arrived, the clock of your server is wrong. '];
}

export const span = (minutes) => (minutes < 120 ? count(Math.ceil(minutes), 'minute') : count(Math.floor(minutes / 60), 'hour'));

const failed = (title, why) => [h('p', outcome('failed', title)), h('p.hint', why)];
