const crypto = require('node:crypto');

// rawBody: req.body after express.raw({ type: '*/*' }), not express.json(); headers: req.headers
function verify(secret, rawBody, headers) {
  const { 'webhook-id': id, 'webhook-timestamp': sent, 'webhook-signature': given = '' } = headers;
  if (!(Math.abs(Date.now() / 1000 - sent) < 300)) return false;
  const key = Buffer.from(secret.replace('whsec_', ''), 'base64');
  const mac = crypto.createHmac('sha256', key).update(`${id}.${sent}.`).update(rawBody);
  const expected = Buffer.from(`v1,${mac.digest('base64')}`);
  return given.split(' ').map((one) => Buffer.from(one))
    .some((one) => one.length === expected.length && crypto.timingSafeEqual(one, expected));
}
