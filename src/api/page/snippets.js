// Code that verifies a request, in two forms, for receivers in several languages.
import { EXAMPLES } from './examples.js';
import { block, h, put, section } from './dom.js';

/** Each form with its name, and what happens to a receiver that uses it. */
const FORMS = {
	rotation: ['With rotation: Webhook-Signature', 'When you regenerate the secret, this goes on with the old one for the time that you choose. It refuses requests that are older than five minutes. Libraries for it: standardwebhooks.com.'],
	simple: ['Simple: X-Webhook-Signature', 'When you regenerate the secret, this refuses requests until it has the new one. They are tried again.'],
};

export function snippets() {
	const codes = Object.fromEntries(EXAMPLES), area = h('div'), about = h('p.hint');
	const select = (label, options) => h('select', { 'aria-label': label, change: show }, options.map(([value, text]) => h('option', { value }, text)));
	const language = select('Language', EXAMPLES.map(([name]) => [name, name]));
	const form = select('Form', Object.entries(FORMS).map(([key, [name]]) => [key, name]));
	function show() {
		put(area, block(`${language.value} code`, codes[language.value][form.value]));
		put(about, FORMS[form.value][1]);
	}
	show();
	return section('Verify requests', h('.snippets', language, form), area, about);
}
