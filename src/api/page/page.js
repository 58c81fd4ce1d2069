// Settings > Webhooks: shows the view that the address's fragment names; without a token, says how to get one.
import * as token from './token.js';
import { hasHost, hostPage, tellRoute } from './embed.js';
import { here } from './address.js';
import { onSignedOut } from './http.js';
import { begin, button, empty, h, hush, loading, put } from './dom.js';
import { listView } from './list.js';
import { createView, mayLeave } from './form.js';
import { webhookView } from './webhook.js';

const main = document.getElementById('main');
let open, shell, hadToken;

function close() {
	open?.abort();
	open = shell = null;
	closeDialogs();
	hush();
}

/** Each with the answer no: they belong to the view that was left. */
const closeDialogs = () => document.querySelectorAll('dialog').forEach((dialog) => dialog.close(''));

function route() {
	tellRoute();
	const place = here(), { id } = place;
	closeDialogs();
	if (shell && shell.id === id) return shell.show(place);
	close();
	open = new AbortController();
	if (!id) listView(main, open.signal);
	else if (id === 'new') createView(main, open.signal);
	else shell = webhookView(main, place, open.signal);
	if (hadToken) begin(main);
	hadToken = true;
}

function noToken() {
	close();
	put(main);
	document.title = 'Webhooks';
	const [title, text] = hadToken ? ['Your session has ended', 'Open Settings › Webhooks in penr.ai again to go on.']
		: ['Open this page from your settings', 'penr.ai signs you in there. This page forgets you when it is reloaded or opened in another tab.'];
	put(main, empty(title, h('p', text), hasHost ? button('Try again', start, '.primary')
		: hostPage && h('a.button.primary', { href: hostPage + location.hash }, `Go to ${new URL(hostPage).host}`)));
	if (hadToken) begin(main);
}

async function start() {
	if (token.current()) return route();
	put(main, loading());
	if (!await token.renew()) noToken();
}

onSignedOut(noToken);
token.onToken(() => { if (!open) route(); });
addEventListener('hashchange', async () => {
	if (location.hash.startsWith('#token=')) {
		close();
		token.takeFromAddress();
	} else if (!await mayLeave()) tellRoute();
	else if (token.current()) route();
});
// The browser may keep the page for its back button: then it must hold nothing of the account.
addEventListener('pagehide', () => {
	close();
	token.forget();
	put(main);
});
addEventListener('pageshow', (event) => { if (event.persisted) start(); });
if (!window.unfit) start();
