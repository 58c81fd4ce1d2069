// A secret that is not in the page before it is revealed, and not after it is hidden; and code that verifies with it.
import { block, button, copyButton, h, put } from './dom.js';

const SHOWN_MS = 30_000;
const MASK = `whsec_${'•'.repeat(24)}`;

export function secretBox(read, signal) {
	const value = h('code.secret');
	let timer = 0;
	const show = (secret) => {
		clearTimeout(timer);
		put(value, secret || MASK);
		put(reveal, secret ? 'Hide' : 'Reveal');
		reveal.ariaPressed = String(Boolean(secret));
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

// Webhook-Signature, since it holds the time, and for a day after a regeneration a signature of either secret.
const CODE = {
	'Node.js': `const crypto = require('node:crypto');

// rawBody: the bytes as they came, before any JSON parser
function verify(secret, headers, rawBody) {
  const id = headers['webhook-id'], time = headers['webhook-timestamp'];
  if (!(Math.abs(Date.now() / 1000 - time) < 300)) return false;
  const expected = 'v1,' + crypto.createHmac('sha256', Buffer.from(secret.slice(6), 'base64'))
    .update(id + '.' + time + '.').update(rawBody).digest('base64');
  return String(headers['webhook-signature']).split(' ').some((one) =>
    one.length === expected.length && crypto.timingSafeEqual(Buffer.from(one), Buffer.from(expected)));
}`,
	Python: `import base64, hashlib, hmac, time

# raw_body: the bytes as they came; headers: as your framework has them, in any case
def verify(secret, headers, raw_body):
    sent = headers["Webhook-Timestamp"]
    if abs(time.time() - int(sent)) > 300:
        return False
    signed = f"{headers['Webhook-Id']}.{sent}.".encode() + raw_body
    mac = hmac.new(base64.b64decode(secret[6:]), signed, hashlib.sha256)
    expected = b"v1," + base64.b64encode(mac.digest())
    given = headers["Webhook-Signature"].encode().split(b" ")
    return any(hmac.compare_digest(one, expected) for one in given)`,
	Go: `// imports: crypto/hmac crypto/sha256 encoding/base64 net/http strconv strings time
func verify(secret string, header http.Header, rawBody []byte) bool {
	sent := header.Get("Webhook-Timestamp")
	seconds, err := strconv.ParseInt(sent, 10, 64)
	if err != nil || time.Since(time.Unix(seconds, 0)).Abs() > 5*time.Minute {
		return false
	}
	key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(header.Get("Webhook-Id") + "." + sent + "."))
	mac.Write(rawBody)
	expected := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	for _, one := range strings.Fields(header.Get("Webhook-Signature")) {
		if hmac.Equal([]byte(one), []byte(expected)) {
			return true
		}
	}
	return false
}`,
	PHP: `// $rawBody = file_get_contents('php://input');
function verify(string $secret, string $rawBody): bool {
    ['HTTP_WEBHOOK_ID' => $id, 'HTTP_WEBHOOK_TIMESTAMP' => $time, 'HTTP_WEBHOOK_SIGNATURE' => $given] = $_SERVER;
    if (abs(time() - (int) $time) > 300) return false;
    $mac = hash_hmac('sha256', "$id.$time.$rawBody", base64_decode(substr($secret, 6)), true);
    $equal = fn($one) => hash_equals('v1,' . base64_encode($mac), $one);
    return array_filter(explode(' ', $given), $equal) !== [];
}`,
	Ruby: `require "openssl"

# request: Rack's, as Rails and Sinatra have it
def verify(secret, request)
  id, time, given = %w[ID TIMESTAMP SIGNATURE].map { |name| request.get_header("HTTP_WEBHOOK_#{name}") }
  return false if (Time.now.to_i - time.to_i).abs > 300
  mac = OpenSSL::HMAC.digest("SHA256", secret[6..].unpack1("m"), "#{id}.#{time}.#{request.body.read}")
  given.split.any? { |one| OpenSSL.secure_compare(one, "v1," + [mac].pack("m0")) }
end`,
};

export function snippets() {
	const area = h('div');
	const choose = (name) => put(area, block(`${name} code`, CODE[name]));
	choose('Node.js');
	return h('div',
		h('fieldset.segments', h('legend.hidden', 'Language'), Object.keys(CODE).map((name) => h('label',
			h('input', { type: 'radio', name: 'language', checked: name === 'Node.js', change: () => choose(name) }), h('span', name)))),
		area,
		h('p.hint', 'Prefer a simpler header? ', h('code', 'X-Webhook-Signature'), ' is the hex HMAC-SHA256 of the raw body; its key is the whole secret as shown.'));
}
