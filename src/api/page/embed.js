// Speaks with the page that frames this one, as docs/embedding.md says, if its origin is in the setting api.frame_ancestors.

/** The surface of page.css, `--soft`, on which coloured text is hardest to read. */
const SURFACES = { light: '#eef0f4', dark: '#222732' };
const READABLE = 4.5;
const ROOM_AROUND_DIALOG = 64;

const root = document.documentElement;
const configured = document.querySelector('meta[name=host-origins]').content.split(' ').filter(Boolean);
// Where the browser does not say who frames the page, all hosts are told, and the browser delivers to the right one alone.
const framing = location.ancestorOrigins?.[0] ?? 'null';
const hosts = parent === window ? [] : configured.filter((origin) => framing === 'null' || framing === origin);
export const hasHost = hosts.length > 0;

/** A page of a host, for a reader who has to come back from there. */
export const hostPage = configured.some((origin) => document.referrer.startsWith(`${origin}/`)) ? document.referrer : configured[0];

export function tell(type, fields) {
	for (const host of hosts) parent.postMessage({ type: `penr-webhooks:${type}`, ...fields }, host);
}

/** Calls `listener` for each message of this type from the framing page. */
export function onMessage(type, listener) {
	addEventListener('message', ({ source, origin, data }) => {
		if (source === parent && hosts.includes(origin) && data?.type === `penr-webhooks:${type}`) listener(data);
	});
}

let began, told, link;

const isRoute = (route) => typeof route === 'string' && /^\/webhooks($|[/?])/.test(route);

/** Tells the host which view is shown. To be called after each change of the address. */
export function tellRoute() {
	const route = location.hash.slice(1) || '/webhooks';
	if (route === told || !isRoute(route)) return;
	told = route;
	tell('route', { route });
}

/** The address of a view, `/webhooks/…`, for others: in the host's page, if the host has said how. */
export const permalink = (route) => (link ?? `${location.href.split('#')[0]}#`) + route;

onMessage('token', ({ route, theme, accent, link: base }) => {
	// With later tokens the reader stays where they are.
	if (!began && isRoute(route)) history.replaceState(null, '', `#${route}`);
	began = true;
	if (typeof base === 'string' && base.includes('#') && hosts.some((origin) => base.startsWith(`${origin}/`))) link = base;
	if (theme || accent) dress(theme, accent);
});

onMessage('go', ({ route }) => {
	if (!isRoute(route)) return;
	told = route;
	// Not a new entry in the history: the host has made one.
	location.replace(`#${route}`);
});

/** The accent is used in the themes in which it can be read. */
function dress(theme = 'auto', accent) {
	// The rule of page.css that has the dark colours.
	document.styleSheets[0].cssRules[1].media.mediaText = { light: 'not all', dark: 'all' }[theme] ?? '(prefers-color-scheme:dark)';
	const good = Object.keys(SURFACES).filter((one) => /^#[0-9a-f]{6}$/i.test(accent) && contrast(accent, SURFACES[one]) >= READABLE);
	for (const one in SURFACES) root.style.setProperty(`--accent-${one}`, good.includes(one) ? accent : '');
	const used = SURFACES[theme] ? good.includes(theme) : good.length;
	if (accent && !used) console.warn(`The accent ${accent} is not used: it must be #rrggbb, and readable on ${SURFACES[theme] ?? Object.values(SURFACES).join(' or ')}.`);
}

/** From 1 to 21, as WCAG 2 defines it. */
function contrast(...colours) {
	const [dark, light] = colours.map(luminance).sort((a, b) => a - b);
	return (light + 0.05) / (dark + 0.05);
}

const luminance = (colour) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
	const part = parseInt(colour.slice(1 + 2 * i, 3 + 2 * i), 16) / 255;
	return sum + weight * (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
}, 0);

let height;
function tellHeight() {
	const dialogs = [...document.querySelectorAll('dialog')].map((dialog) => dialog.scrollHeight + ROOM_AROUND_DIALOG);
	const now = Math.ceil(Math.max(root.getBoundingClientRect().height, ...dialogs));
	if (now === height) return;
	height = now;
	tell('height', { height });
}

/** Puts dialogs and messages into the part of the frame that the reader sees: a frame may be taller than the window. */
function putWhereSeen() {
	const once = new IntersectionObserver(([{ isIntersecting, boundingClientRect: all, intersectionRect: seen }]) => {
		once.disconnect();
		const [above, below] = isIntersecting ? [seen.top - Math.max(all.top, 0), Math.min(all.bottom, innerHeight) - seen.bottom] : [0, 0];
		root.style.setProperty('--above', `${above}px`);
		root.style.setProperty('--below', `${below}px`);
	});
	once.observe(root);
}

if (hasHost) {
	const sizes = new ResizeObserver(tellHeight);
	sizes.observe(root);
	const appearing = new MutationObserver(() => {
		putWhereSeen();
		for (const dialog of document.querySelectorAll('dialog')) sizes.observe(dialog);
	});
	for (const place of [document.body, document.getElementById('status')]) appearing.observe(place, { childList: true });
}
