// The signing secret, which is in the page only while it is revealed.
import { button, copyButton, h, put } from './dom.js';

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
		reveal.setAttribute('aria-pressed', !!secret);
		if (secret) timer = setTimeout(show, SHOWN_MS);
	};
	const reveal = button('', async () => {
		const secret = reveal.getAttribute('aria-pressed') === 'true' ? '' : await read();
		show(signal.aborted ? '' : secret);
	}, '.small');
	show();
	signal.addEventListener('abort', () => show());
	return h('.secret-box', { hide: () => show() }, value, reveal, copyButton(read, 'Copy secret'));
}
