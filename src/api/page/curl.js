// Writes a delivery's request down: as a command for a POSIX shell, and its JSON for reading.

/** Of these headers a command has only a variable's name: a signature is made with the secret. */
const SIGNATURES = ['Webhook-Signature', 'X-Webhook-Signature'];
const MADE_BY_CURL = /^(content-length|host|connection)$/i;
/** Linux takes at most 128 KiB in one argument, and a character has up to three bytes here. */
const LONGEST_ARGUMENT = 40_000;

/** The payload is foreign text. Between single quotes a shell gives no character a meaning, except to the closing quote. */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;


/**
 * The command that sends `body` to `url` again. What is secret stands in it as a variable: `"$WEBHOOK_SIGNATURE"`; for a custom header
 * `"$HEADER_AUTHORIZATION"`, as its name alone may be that of a shell's variable, such as `PATH`; and `"$QUERY"`, because a URL's query
 * often has a token.
 */
export function curl(url, headers, body) {
	const given = Object.entries(headers ?? { 'Content-Type': 'application/json' }).filter(([name]) => !MADE_BY_CURL.test(name));
	// A custom header's value is shown to nobody.
	const custom = given.filter(([, value]) => value === '[hidden]').map(([name]) => name), secret = [...SIGNATURES, ...custom], variables = [];
	for (const name of secret) {
		let variable = `${custom.includes(name) ? 'HEADER_' : ''}${name.toUpperCase().replace(/\W/g, '_')}`;
		while (variables.includes(variable)) variable += '_';
		variables.push(variable);
	}
	const long = body.length > LONGEST_ARGUMENT, [, address, query] = /^([^?]*\??)(.*)$/.exec(url);
	return [
		`${long ? `printf %s ${quoted(body)} | ` : ''}curl --globoff --url ${quoted(address)}${query && '"$QUERY"'}`,
		...given.filter(([name]) => !secret.includes(name)).map((header) => `-H ${quoted(header.join(': '))}`),
		...secret.map((name, i) => `-H ${quoted(`${name}: `)}"$${variables[i]}"`),
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
