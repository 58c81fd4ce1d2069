// The signing secret, which is in the page only while it is revealed, and code examples that verify with it.
import { block, button, copyButton, h, put, section } from './dom.js';

export const PRIVATE = 'Treat it like a password.';
const SHOWN_MS = 30_000;
const MASK = `whsec_${'•'.repeat(24)}`;

export function secretBox(read, signal) {
	const value = h('code.secret');
	let timer = 0;
	const show = (secret) => {
		clearTimeout(timer);
		put(value, secret || MASK);
		put(reveal, secret ? 'Hide' : 'Reveal');
		reveal.ariaPressed = String(!!secret);
		if (secret) timer = setTimeout(show, SHOWN_MS);
	};
	const reveal = button('', async () => {
		const secret = reveal.ariaPressed === 'true' ? '' : await read();
		show(signal.aborted ? '' : secret);
	}, '.small');
	show();
	signal.addEventListener('abort', () => show());
	return h('.secret-box', { hide: () => show() }, value, reveal, copyButton(read, 'Copy secret'));
}

const given = (body) => `${body}: the bytes as they came; signature: X-Webhook-Signature`;
const CODE = {
	'Node.js': `const crypto = require('node:crypto');

// ${given('rawBody')}
function verify(secret, rawBody, signature) {
  const expected = crypto.createHmac('sha256', secret).update(rawBody).digest();
  const given = Buffer.from(signature ?? '', 'hex');
  return given.length === expected.length && crypto.timingSafeEqual(given, expected);
}`,
	Python: `import hashlib, hmac

# ${given('raw_body')}
def verify(secret: str, raw_body: bytes, signature: str) -> bool:
    expected = hmac.new(secret.encode(), raw_body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected.encode(), signature.encode())`,
	Go: `import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
)

// ${given('rawBody')}
func verify(secret string, rawBody []byte, signature string) bool {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(rawBody)
	given, err := hex.DecodeString(signature)
	return err == nil && hmac.Equal(given, mac.Sum(nil))
}`,
	PHP: `// file_get_contents('php://input'), $_SERVER['HTTP_X_WEBHOOK_SIGNATURE']
function verify(string $secret, string $rawBody, string $signature): bool {
    return hash_equals(hash_hmac('sha256', $rawBody, $secret), $signature);
}`,
	Ruby: `require "openssl"

# ${given('raw_body')}
def verify(secret, raw_body, signature)
  OpenSSL.secure_compare(OpenSSL::HMAC.hexdigest("SHA256", secret, raw_body), signature)
end`,
};

export function snippets() {
	const area = h('div');
	const choose = (name) => put(area, block(`${name} code`, CODE[name]));
	choose('Node.js');
	return section('Verify requests',
		h('select', { 'aria-label': 'Language', change: ({ target }) => choose(target.value) }, Object.keys(CODE).map((name) => h('option', { value: name }, name))),
		area,
		h('p.hint', h('code', 'Webhook-Signature'), ' follows standardwebhooks.com, whose libraries check the time of sending too.'));
}
