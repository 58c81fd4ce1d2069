// Checks the signatures of a request that the reader pastes, in the browser, and names the usual mistakes.
import { form, h, put, section, submit } from './dom.js';
import { textField } from './form.js';
import { outcome, time } from './words.js';

const ID = 'webhook-id', SENT = 'webhook-timestamp';
/** Libraries refuse requests that are older. */
const OLDEST_MS = 300_000;

/** `own` resolves to the webhook's secret. What is pasted is sent nowhere. */
export function checker(own) {
	const title = 'Check a signature';
	if (!globalThis.crypto?.subtle) return section(title, h('p.muted', 'A browser can do this only on a page that was opened over https.'));
	const field = (name, hint, kind = 'textarea') => textField(`check-${name.toLowerCase()}`, name, '', hint, { required: false, rows: 3 }, kind);
	const fields = [
		field('Headers', 'X-Webhook-Signature, or Webhook-Signature with Webhook-Id and Webhook-Timestamp.'),
		field('Body', 'As it arrived, before anything parsed it.'),
		field('Secret', 'Empty: the secret of this webhook.', 'input'),
	];
	const control = submit('Check'), result = h('div', { role: 'status' });
	const check = async () => {
		const [headers, body, secret] = fields.map(({ input }) => input.value), given = secret.trim();
		put(result, await judge(parse(headers), body, given || await own(), given ? own : null));
	};
	return section(title, h('p.muted', 'Paste a request that your receiver refused. It stays in this browser.'),
		form('', control, check, fields.map(({ element }) => element), h('.actions', control)), result);
}

/** The headers by their names in lower case. A signature may stand without its name. */
function parse(text) {
	const found = {};
	for (const line of text.split('\n')) {
		const [, name, value] = /^\W*?(?:([\w-]+)["']?\s*[:=])?[\s"']*(.*?)[\s"',]*$/.exec(line);
		if (value) found[name?.toLowerCase() ?? (value.startsWith('v1,') ? 'webhook-signature' : 'x-webhook-signature')] = value;
	}
	return found;
}

/** `own`, if given, resolves to the secret that the webhook has now. */
async function judge(headers, body, secret, own) {
	if (!secret.startsWith('whsec_')) return failed('This is no secret of ours', 'Each begins with whsec_.');
	const found = Object.entries(SIGNATURES).filter(([name]) => headers[name.toLowerCase()]);
	if (!found.length) return failed('There is no signature', 'A request that has neither header is not ours.');
	return Promise.all(found.map(([name, sign]) => judgeOne(name, sign, { headers, body, secret, own })));
}

async function judgeOne(name, sign, { headers, body, secret, own }) {
	const given = headers[name.toLowerCase()].split(' ');
	// A secret that is no base64 signs nothing.
	const fits = async (key, text) => given.includes(await sign(headers, key, text).catch(() => null));
	const rotates = name === 'Webhook-Signature', wrong = (why) => failed(`${name} does not fit`, why);
	if (rotates && !(headers[ID] && headers[SENT])) return failed(`${name} cannot be checked`, 'It signs Webhook-Id and Webhook-Timestamp, too: paste both.');
	if (await fits(secret, body)) return [h('p', outcome('success', `${name} is right`)), h('p.hint', rotates && clock(headers[SENT]),
		'If your receiver refuses it, it has another secret, or hashes other bytes: let it verify before anything parses the body.')];
	for (const [text, why] of changes(body)) if (await fits(secret, text)) return wrong(why);
	// A token that may only read gets no secret.
	const current = await own?.().catch(() => '');
	if (current && await fits(current, body)) return wrong('Another secret: it was signed with the one that the webhook has now.');
	return wrong(body.startsWith('{"id":"')
		? 'The body is not what we sent (perhaps it was parsed and written again), the secret is an older one, or the header is of another request.'
		: 'The body was parsed and written again: ours begins with {"id":" without blanks.');
}

/** The body as it may have been before what often happens to it, and what that was. */
function* changes(body) {
	yield [body.trim(), 'The body has a blank or a line break at its beginning or end that we did not send.'];
	try {
		yield [JSON.stringify(JSON.parse(body)), 'The body was parsed and written again: its blanks are not those that we sent.'];
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

function clock(sent) {
	const at = sent * 1000;
	return Math.abs(Date.now() - at) > OLDEST_MS && ['It was sent ', time(new Date(at).toISOString()),
		': code that checks the time refuses it now. If it did so when it arrived, the clock of your server is wrong. '];
}

const failed = (title, why) => [h('p', outcome('failed', title)), h('p.hint', why)];
