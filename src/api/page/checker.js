// Checks the signatures of a request that the reader pastes, in the browser, and names the usual mistakes.
import { act, h, put, section, submit } from './dom.js';
import { textField } from './form.js';
import { outcome, time } from './words.js';

const SIMPLE = 'x-webhook-signature', ROTATION = 'webhook-signature', ID = 'webhook-id', SENT = 'webhook-timestamp';
/** Libraries refuse requests that are older. */
const OLDEST_MS = 300_000;

/** `own` resolves to the webhook's secret. What is pasted is sent nowhere. */
export function checker(own) {
	const title = 'Check a signature';
	if (!globalThis.crypto?.subtle) return section(title, h('p.muted', 'A browser can do this only on a page that was opened over https.'));
	const field = (name, hint, props, kind) => textField(`check-${name.toLowerCase()}`, name, '', hint, { required: false, ...props }, kind);
	const headers = field('Headers', 'X-Webhook-Signature, or Webhook-Signature with Webhook-Id and Webhook-Timestamp.', { rows: 3 }, 'textarea');
	const body = field('Body', 'As it arrived, before anything parsed it.', { rows: 3 }, 'textarea');
	const secret = field('Secret', 'Empty: the secret of this webhook.');
	const control = submit('Check'), result = h('div', { role: 'status' });
	const check = async () => {
		const given = secret.value();
		put(result, await judge(parse(headers.value()), body.input.value, given || await own(), given ? own : null));
	};
	return section(title, h('p.muted', 'Paste a request that your receiver refused. It stays in this browser.'),
		h('form', { novalidate: true, submit: (event) => { event.preventDefault(); act(control, check); } },
			headers.element, body.element, secret.element, h('.actions', control)), result);
}

/** The headers by their names in lower case. A signature may stand without its name. */
function parse(text) {
	const found = {};
	for (const line of text.split('\n')) {
		const [, name, value] = /^\W*?(?:([\w-]+)["']?\s*[:=])?[\s"']*(.*?)[\s"',]*$/.exec(line);
		if (value) found[name?.toLowerCase() ?? (value.startsWith('v1,') ? ROTATION : SIMPLE)] = value;
	}
	return found;
}

async function judge(headers, body, secret, own) {
	if (!secret.startsWith('whsec_')) return failed('This is no secret of ours', 'It begins with whsec_, which belongs to it.');
	const found = [];
	if (headers[SIMPLE]) found.push(await judgeOne('X-Webhook-Signature', simple, headers, body, secret, own));
	if (headers[ROTATION]) found.push(await judgeOne('Webhook-Signature', rotation, headers, body, secret, own));
	return found.length ? found : failed('There is no signature', 'A request that has neither header is not ours.');
}

/** `fits` tells whether a secret and a body give the signature. */
async function judgeOne(name, fits, headers, body, secret, own) {
	if (fits === rotation && !(headers[ID] && headers[SENT])) return failed(`${name} cannot be checked`, 'It signs Webhook-Id and Webhook-Timestamp, too: paste both.');
	if (await fits(headers, secret, body)) return [h('p', outcome('success', `${name} is right`)), h('p.hint', fits === rotation && clock(headers[SENT]),
		'If your receiver refuses it, it has another secret, or hashes other bytes: let it verify before anything parses the body.')];
	const wrong = (why) => failed(`${name} does not fit`, why);
	for (const [text, why] of changes(body)) if (await fits(headers, secret, text)) return wrong(why);
	// A token that may only read gets no secret.
	const current = await own?.().catch(() => '');
	if (current && await fits(headers, current, body)) return wrong('Another secret: it was signed with the one that the webhook has now.');
	return wrong(body.startsWith('{"id":"')
		? 'The body is not what we sent (perhaps it was parsed and written again), the secret is an older one, or the header is of another request.'
		: 'The body was parsed and written again: ours begins with {"id":" without blanks.');
}

/** The body as it may have been before what often happens to it, and what that was. */
function* changes(body) {
	yield [body.trim(), 'The body has a blank or a line break at its beginning or end that we did not send.'];
	try {
		yield [JSON.stringify(JSON.parse(body)), 'The body was parsed and written again: its blanks are not those that we sent.'];
	} catch { /* It is no JSON. */ }
}

const simple = async (headers, secret, body) =>
	headers[SIMPLE] === (await hmac(bytes(secret), body)).map((byte) => byte.toString(16).padStart(2, '0')).join('');

async function rotation(headers, secret, body) {
	try {
		const key = Uint8Array.from(atob(secret.slice(6)), (char) => char.charCodeAt());
		const mac = await hmac(key, `${headers[ID]}.${headers[SENT]}.${body}`);
		return headers[ROTATION].split(' ').includes(`v1,${btoa(String.fromCharCode(...mac))}`);
	} catch {
		// The secret is no base64.
		return false;
	}
}

async function hmac(key, text) {
	const own = await crypto.subtle.importKey('raw', key, { name: 'HMAC', hash: 'SHA-256' }, false, ['sign']);
	return [...new Uint8Array(await crypto.subtle.sign('HMAC', own, bytes(text)))];
}

const bytes = (text) => new TextEncoder().encode(text);

function clock(sent) {
	const at = sent * 1000;
	return Math.abs(Date.now() - at) > OLDEST_MS && ['It was sent ', time(new Date(at).toISOString()),
		': code that checks the time refuses it now. If it did so when it arrived, the clock of your server is wrong. '];
}

const failed = (title, why) => [h('p', outcome('failed', title)), h('p.hint', why)];
