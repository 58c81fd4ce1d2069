const crypto = require('node:crypto');

// rawBody: req.body after express.raw({ type: '*/*' }), not express.json(); signature: req.get('X-Webhook-Signature')
function verify(secret, rawBody, signature) {
  const expected = crypto.createHmac('sha256', secret).update(rawBody).digest('hex');
  const given = Buffer.from(signature ?? '');
  return given.length === expected.length && crypto.timingSafeEqual(given, Buffer.from(expected));
}
