
// Behind a snippet: calls its `verify` for each case on stdin, and prints the results.
const [form] = process.argv.slice(2);
const cases = JSON.parse(require('node:fs').readFileSync(0, 'utf8'));
console.log(JSON.stringify(cases.map(({ secret, body, headers }) => {
  try {
    return verify(secret, Buffer.from(body, 'base64'), form === 'simple' ? headers['x-webhook-signature'] : headers);
  } catch (error) {
    return `it raised ${error}`;
  }
})));
