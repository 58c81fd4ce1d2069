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

export const isRoute = (route) => typeof route === 'string' && /^\/webhooks($|[/?])/.test(route);

/** Tells the host which view is shown. To be called after each change of the address. */
export function tellRoute() {
	const route = location.hash.slice(1) || '/webhooks';
	if (route === told || !isRoute(route)) return;
	told = route;
	tell('route', { route });
}

/** Whether views have an address for others: in a frame only if the host has said so. */
export const mayLink = () => parent === window || Boolean(link);
/** The address of a view, `/webhooks/…`, for others: in the host's page, if the host has said how: with {route} for the encoded route, or a # to write it behind. */
export const permalink = (route) => (link?.includes('{route}')
	? link.replace('{route}', encodeURIComponent(route))
	: (link ?? `${location.href.split('#')[0]}#`) + route);

onMessage('token', ({ route, theme, accent, link: base }) => {
	// With later tokens the reader stays where they are. So they do after a way back that loaded the frame anew.
	if (!began && isRoute(route) && !isRoute(location.hash.slice(1))) history.replaceState(history.state, '', `#${route}`);
	began = true;
	if (/#|\{route\}/.test(base) && hosts.some((origin) => base.startsWith?.(`${origin}/`))) link = base;
	else if (base) refuse('link', base, 'of an origin in api.frame_ancestors, with # or {route}');
	if (theme || accent) dress(theme, accent);
});

onMessage('go', ({ route }) => {
	if (!isRoute(route)) return;
	const before = location.href;
	told = '';
	// Not a new entry in the history: the host has made one.
	history.replaceState(history.state, '', `#${route}`);
	if (location.href === before) tellRoute();
	else dispatchEvent(new HashChangeEvent('hashchange'));
});

const refuse = (what, value, wanted) => console.warn(`The ${what} ${value} is not used: it must be ${wanted}.`);

const THEMES = { light: 'not all', dark: 'all', auto: '(prefers-color-scheme:dark)' };
let look = { theme: 'auto' };
/** The accent is used in the themes in which it can be read. What is not given stays. */
function dress(wanted = look.theme, accent = look.accent) {
	const known = Object.hasOwn(THEMES, wanted), theme = known ? wanted : look.theme;
	if (!known) refuse('theme', wanted, 'light, dark or auto');
	look = { theme, accent };
	// The rule of page.css that has the dark colours.
	document.styleSheets[0].cssRules[1].media.mediaText = THEMES[theme];
	const good = Object.keys(SURFACES).filter((one) => /^#[0-9a-f]{6}$/i.test(accent) && contrast(accent, SURFACES[one]) >= READABLE);
	for (const one in SURFACES) root.style.setProperty(`--accent-${one}`, good.includes(one) ? accent : '');
	const used = SURFACES[theme] ? good.includes(theme) : good.length;
	if (accent && !used) refuse('accent', accent, `#rrggbb, and readable on ${SURFACES[theme] ?? Object.values(SURFACES).join(' or ')}`);
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
