// @ts-check
// A secret that is not in the page before it is revealed, and not after it is hidden; and code that verifies with it.
import { block, busy, copyButton, h, put, saying } from './dom.js';

const SHOWN_MS = 30_000;
const MASK = 'whsec_' + '•'.repeat(24);

/** @param {() => Promise<string | undefined>} read @param {AbortSignal} signal */
export function secretBox(read, signal) {
  const value = h('code', { class: 'secret', 'aria-label': 'Secret, hidden' }, MASK);
  let timer = 0;
  const hide = () => {
    clearTimeout(timer);
    put(value, MASK);
    value.setAttribute('aria-label', 'Secret, hidden');
    put(reveal, 'Reveal');
    reveal.setAttribute('aria-pressed', 'false');
  };
  const show = async () => {
    const secret = await saying(read);
    if (!secret || signal.aborted) return;
    put(value, secret);
    value.removeAttribute('aria-label');
    put(reveal, 'Hide');
    reveal.setAttribute('aria-pressed', 'true');
    timer = setTimeout(hide, SHOWN_MS);
  };
  const reveal = h('button', { type: 'button', class: 'button small', 'aria-pressed': 'false',
    click: () => busy(reveal, async () => (reveal.getAttribute('aria-pressed') === 'true' ? hide() : show())) }, 'Reveal');
  signal.addEventListener('abort', hide);
  const element = h('div', { class: 'secret-box' }, value, reveal, copyButton(() => saying(read), 'Copy secret'));
  element.addEventListener('hide', hide);
  return element;
}

/** Verify `Webhook-Signature`: it holds a signature of either secret for a day after a regeneration, and the time. */
const CODE = {
  'Node.js': `const crypto = require('node:crypto');

// rawBody: the bytes as they came, before any JSON parser.
function verify(secret, headers, rawBody) {
  const id = headers['webhook-id'];
  const time = headers['webhook-timestamp'];
  if (!(Math.abs(Date.now() / 1000 - Number(time)) < 300)) return false;
  const expected = crypto
    .createHmac('sha256', Buffer.from(secret.slice('whsec_'.length), 'base64'))
    .update(\`\${id}.\${time}.\`).update(rawBody).digest();
  return String(headers['webhook-signature']).split(' ').some((one) => {
    const given = Buffer.from(one.slice('v1,'.length), 'base64');
    return given.length === expected.length && crypto.timingSafeEqual(given, expected);
  });
}`,
  Python: `import base64, hashlib, hmac, time

# raw_body: the bytes as they came. headers: case-insensitive, as your framework has them.
def verify(secret: str, headers, raw_body: bytes) -> bool:
    sent = headers["Webhook-Timestamp"]
    if abs(time.time() - int(sent)) > 300:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['Webhook-Id']}.{sent}.".encode() + raw_body
    expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return any(hmac.compare_digest(one.encode(), expected.encode())
               for one in headers["Webhook-Signature"].split(" "))`,
  Go: `import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// rawBody: the bytes as they came.
func verify(secret string, header http.Header, rawBody []byte) bool {
	sent, err := strconv.ParseInt(header.Get("Webhook-Timestamp"), 10, 64)
	if err != nil || time.Since(time.Unix(sent, 0)).Abs() > 5*time.Minute {
		return false
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		return false
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(header.Get("Webhook-Id") + "." + header.Get("Webhook-Timestamp") + "."))
	mac.Write(rawBody)
	expected := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	for _, one := range strings.Split(header.Get("Webhook-Signature"), " ") {
		if hmac.Equal([]byte(one), []byte(expected)) {
			return true
		}
	}
	return false
}`,
  PHP: `// $rawBody = file_get_contents('php://input');
function verify(string $secret, string $rawBody): bool {
    $id = $_SERVER['HTTP_WEBHOOK_ID'];
    $time = $_SERVER['HTTP_WEBHOOK_TIMESTAMP'];
    if (abs(time() - (int) $time) > 300) return false;
    $key = base64_decode(substr($secret, strlen('whsec_')));
    $expected = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$time.$rawBody", $key, true));
    foreach (explode(' ', $_SERVER['HTTP_WEBHOOK_SIGNATURE']) as $one) {
        if (hash_equals($expected, $one)) return true;
    }
    return false;
}`,
  Ruby: `require "openssl"
require "base64"

# request: Rack's, as Rails and Sinatra have it.
def verify(secret, request)
  id, time, signatures = %w[ID TIMESTAMP SIGNATURE].map { |name| request.get_header("HTTP_WEBHOOK_#{name}") }
  return false if (Time.now.to_i - time.to_i).abs > 300
  key = Base64.strict_decode64(secret.delete_prefix("whsec_"))
  mac = OpenSSL::HMAC.digest("SHA256", key, "#{id}.#{time}.#{request.body.read}")
  expected = "v1," + Base64.strict_encode64(mac)
  signatures.split(" ").any? { |one| OpenSSL.secure_compare(one, expected) }
end`,
};

export function snippets() {
  const area = h('div', { class: 'snippet' });
  const names = Object.keys(CODE);
  const choose = (/** @type {string} */ name) => put(area, block(`${name} code`, CODE[/** @type {keyof typeof CODE} */ (name)]));
  choose(names[0]);
  return h('div', {},
    h('fieldset', { class: 'segments' }, h('legend', { class: 'hidden' }, 'Language'), names.map((name, i) =>
      h('label', {}, h('input', { type: 'radio', name: 'language', value: name, checked: i === 0, change: () => choose(name) }), h('span', {}, name)))),
    area,
    h('p', { class: 'hint' }, 'Prefer the simple header? ', h('code', {}, 'X-Webhook-Signature'), ' is the hex HMAC-SHA256 of the raw body, keyed with the whole secret as shown.'));
}
