// Reads and builds the addresses of views: #/webhooks/ID/TAB/REST?QUERY. This file imports nothing.

export const UUID = /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/i;

/** What the address names. `rest` is the path behind the tab. What is missing is undefined, and what would lead elsewhere in an address
 * of the API, `.` and `..`; `query` may be empty. */
export function here() {
	const [, path, query] = /^([^?]*)\??(.*)$/.exec(location.hash);
	const [, , id, tab, ...rest] = path.split('/').map((part) => part.replace(/^\.{1,2}$/, '') || undefined);
	return { id, tab, rest: rest.join('/') || undefined, query: new URLSearchParams(query) };
}

/** The address of a view of one webhook. `tab` may have a path behind it; values of `query` that are empty are left out. */
export function href(id, tab = 'logs', query = {}) {
	const given = new URLSearchParams(Object.entries(query).filter(([, value]) => value)).toString();
	return `#/webhooks/${id}/${tab}${given && `?${given}`}`;
}
