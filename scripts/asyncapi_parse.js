// Usage: node asyncapi_parse.js PARSER DOCUMENT
// Fails if AsyncAPI's parser finds anything to complain of in the document or in the files that it refers to.
const { readFileSync } = require('node:fs');
const { resolve } = require('node:path');

// The parser is built for browsers.
globalThis.self = globalThis;
const [, , parserFile, documentFile] = process.argv;
const Parser = require(resolve(parserFile));

async function main() {
  const file = { schema: 'file', order: 1, canRead: true, read: (uri) => readFileSync(uri.path(), 'utf8') };
  const parser = new Parser({ __unstable: { resolver: { resolvers: [file] } } });
  const text = readFileSync(documentFile, 'utf8');
  const { document, diagnostics } = await parser.parse(text, { source: resolve(documentFile) });
  // Tools support 3.0 more often than what came after it.
  const complaints = diagnostics.filter(({ code }) => code !== 'asyncapi-latest-version');
  for (const { code, message, path } of complaints) {
    console.error(`${documentFile}: ${path.join('/')}: ${message} (${code})`);
  }
  if (!document || complaints.length > 0) process.exit(1);
  const names = document.messages().all().map((message) => message.name());
  if (names.length !== 5) throw new Error(`it has other messages: ${names}`);
  console.log(`ok ${documentFile}: ${names.join(', ')}`);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
