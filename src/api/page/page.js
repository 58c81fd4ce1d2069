// @ts-check
// Settings > Webhooks: shows the view that the fragment names, and says what to do when there is no token.
import * as token from './token.js';
import { onSignedOut } from './http.js';
import { button, empty, h, put, skeleton } from './dom.js';
import { endOutage } from './poll.js';
import { listView } from './list.js';
import { createView } from './create.js';
import { webhookView } from './webhook.js';

const main = /** @type {HTMLElement} */ (document.getElementById('main'));
/** @type {AbortController | undefined} */
let open;
/** @type {{id: string, show: (tab: string) => void} | null} */
let shell = null;
let hadToken = false;

function close() {
  open?.abort();
  shell = null;
  for (const dialog of document.querySelectorAll('dialog')) /** @type {HTMLDialogElement} */ (dialog).close('');
  endOutage();
}

function route() {
  const [, , id, tab = 'logs'] = location.hash.slice(1).split('/');
  if (shell && shell.id === id && tab !== 'created') return shell.show(tab);
  close();
  open = new AbortController();
  main.removeAttribute('class');
  if (!id) listView(main, open.signal);
  else if (id === 'new') createView(main, open.signal);
  else shell = webhookView(main, id, tab, open.signal);
  scrollTo(0, 0);
  const heading = main.querySelector('h1');
  if (hadToken) heading?.focus({ preventScroll: true });
  hadToken = true;
}

function noToken() {
  close();
  document.title = 'Webhooks';
  const renew = async () => {
    put(main, skeleton(3));
    if (!(await token.renew())) noToken();
  };
  put(main, empty(hadToken ? 'Your session has ended' : 'Open this page from your settings',
    h('p', {}, hadToken
      ? 'For your safety, access to this page ends after a while. Open Settings › Webhooks in penr.ai again to go on where you were.'
      : 'This page needs an access token, which penr.ai hands over when you open Settings › Webhooks there. It is never stored, so reloading this page alone loses it.'),
    token.hasHost && button('Try again', renew, 'primary'),
    h('details', {}, h('summary', {}, 'For operators and developers'),
      h('p', {}, 'Print a token on the command line and open this page with it:'),
      h('pre', { tabindex: 0, role: 'region', 'aria-label': 'Command' }, `penr-webhooks token --account acc_42 --expires-in 1h\n\n${location.origin}${location.pathname}#token=…`))));
}

/** Nothing of an account may be found again by going back in the browser. */
function leave() {
  close();
  token.forget();
  put(main);
}

onSignedOut(noToken);
token.onToken(() => { if (!open || open.signal.aborted) route(); });
addEventListener('hashchange', () => {
  if (location.hash.startsWith('#token=')) {
    close();
    token.takeFromAddress();
  } else if (token.current()) route();
});
addEventListener('pagehide', leave);
addEventListener('pageshow', (event) => { if (event.persisted) start(); });

async function start() {
  if (token.current()) return route();
  put(main, skeleton(3));
  if (!(await token.renew())) noToken();
}

start();
