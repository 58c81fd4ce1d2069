// Writes a delivery's request down: as a command for a POSIX shell, and its JSON for reading.

/** Of these headers a command has only a variable's name: a signature is made with the secret. */
const SIGNATURES = ['Webhook-Signature', 'X-Webhook-Signature'];
const SECRET = /signature|authorization|cookie|secret|token/i;
const MADE_BY_CURL = /^(content-length|host|connection)$/i;
/** Linux takes at most 128 KiB in one argument, and a character has up to three bytes here. */
const LONGEST_ARGUMENT = 40_000;

/** The payload is foreign text. Between single quotes a shell gives no character a meaning, except to the closing quote. */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

const variable = (name) => `"$${name.toUpperCase().replace(/\W/g, '_')}"`;

/**
 * The command that sends `body` to `url` again. What is secret stands in it as a variable: `"$WEBHOOK_SIGNATURE"`, and `"$QUERY"`,
 * because a URL's query often has a token.
 */
export function curl(url, headers, body) {
	const given = Object.entries(headers ?? { 'Content-Type': 'application/json' }).filter(([name]) => !MADE_BY_CURL.test(name));
	const secret = new Set([...SIGNATURES, ...given.map(([name]) => name).filter((name) => SECRET.test(name))]);
	const long = body.length > LONGEST_ARGUMENT, [, address, query] = /^([^?]*\??)(.*)$/.exec(url);
	return [
		`${long ? `printf %s ${quoted(body)} | ` : ''}curl --globoff --url ${quoted(address)}${query && '"$QUERY"'}`,
		...given.filter(([name]) => !secret.has(name)).map((header) => `-H ${quoted(header.join(': '))}`),
		...[...secret].map((name) => `-H ${quoted(`${name}: `)}${variable(name)}`),
		long ? '--data-binary @-' : `--data-raw ${quoted(body)}`,
	].join(' \\\n  ');
}

/** Indents JSON. Its values keep every character: parsed and written again, a long number would be another one. */
export function indented(json) {
	let depth = 0;
	const line = () => `\n${'  '.repeat(depth)}`;
	return json.replace(/"(?:[^"\\]|\\.)*"|([{[])\s*([}\]])|[{}[\],:]|\s+/g, (part, open, close) => {
		if (open) return open + close;
		if (part === ':') return ': ';
		if (part === ',') return part + line();
		if (part === '{' || part === '[') depth += 1;
		else if (part === '}' || part === ']') depth -= 1;
		else return part.trim();
		return /[{[]/.test(part) ? part + line() : line() + part;
	});
}
