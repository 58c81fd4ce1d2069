// Asks before edits that are not saved are left behind.
import { confirm } from './dom.js';

let unsaved = () => false, asking = false;

/** From now on until `signal` aborts, `check` tells whether something is unsaved. */
export function guard(signal, check) {
	unsaved = check;
	signal.addEventListener('abort', () => { if (unsaved === check) forget(); });
}

export const forget = () => { unsaved = () => false; };

/** Whether the reader may go where the address now points. If not, the address is as before. */
export async function mayLeave({ oldURL }) {
	if (!unsaved()) return true;
	// A question is open, whose answer counts for this change of the address, too.
	if (asking) return false;
	asking = true;
	const leaves = await confirm('Leave without saving?', ['Your changes are lost.'], 'Leave');
	asking = false;
	if (leaves) forget();
	else history.pushState(null, '', oldURL);
	return leaves;
}

addEventListener('beforeunload', (event) => { if (unsaved()) event.preventDefault(); });
