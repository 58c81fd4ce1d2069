// What a receiver needs to verify requests: the signing secret, which is in the page only while it is revealed, and code.
import { EXAMPLES } from './examples.js';
import { block, button, copyButton, h, put, section, select } from './dom.js';

const SHOWN_MS = 30_000;
const MASK = `whsec_${'•'.repeat(24)}`;

/** Each form of the code, as rows of `EXAMPLES` have them: its name, what a new secret does to it, and what else to know. */
export const FORMS = [
	['rotation', 'With rotation: Webhook-Signature', 'After you regenerate the secret, this goes on: the old one stays valid in Webhook-Signature for the time that you choose.',
		' It refuses requests that are older than five minutes. Libraries for it: ',
		h('a', { href: 'https://www.standardwebhooks.com', target: '_blank', rel: 'noopener' }, 'standardwebhooks.com'), '. Take this one, unless your code already checks X-Webhook-Signature.'],
	['simple', 'Simple: X-Webhook-Signature', 'After you regenerate the secret, this refuses requests until it has the new one. They are tried again.'],
];

export function secretBox(read, signal) {
	const value = h('code.secret');
	let timer, shown;
	const show = (secret) => {
		clearTimeout(timer);
		shown = secret;
		put(value, secret || MASK);
		put(reveal, secret ? 'Hide' : 'Reveal');
		if (secret) timer = setTimeout(show, SHOWN_MS);
	};
	const reveal = button('', async () => {
		const secret = shown ? '' : await read();
		show(signal.aborted ? '' : secret);
	}, '.small');
	show();
	signal.addEventListener('abort', () => show());
	return h('div', { hide: () => show() }, h('.secret-box', value, reveal, copyButton(read, 'Copy secret')), h('p.hint', 'Treat it like a password.'));
}

export function snippets() {
	const area = h('div'), about = h('p.hint');
	const language = select({ 'aria-label': 'Language', change: show }, EXAMPLES.map(([name]) => [name, name]));
	const form = select({ 'aria-label': 'Form', change: show }, FORMS);
	function show() {
		put(area, block(`${language.value} code`, EXAMPLES[language.selectedIndex][form.selectedIndex + 1]));
		put(about, FORMS[form.selectedIndex].slice(2));
	}
	show();
	return section('Verify requests', h('.snippets', language, form), area, about);
}
