// @ts-check
// Asks again and again while a view is open and visible; says it when the service is away, and recovers by itself.
import { put } from './dom.js';

const outage = /** @type {HTMLElement} */ (document.getElementById('outage'));
const SLOWEST_MS = 10_000;

/** @param {any} problem */
function showOutage(problem) {
  const text = problem.status === 429
    ? 'Too many requests at the moment; going on shortly.'
    : 'The service is not available right now. What you see may be out of date; trying again by itself.';
  if (outage.textContent !== text) put(outage, text);
  outage.hidden = false;
}

export function endOutage() {
  outage.hidden = true;
  put(outage);
}

/**
 * Runs `work` now, and `ms` after it has ended. A problem that passes is waited out; every other one ends it.
 * @param {number} ms @param {AbortSignal} signal @param {() => Promise<any>} work @param {(problem: any) => void} failed
 * @returns {() => void} asks at once
 */
export function poll(ms, signal, work, failed) {
  let timer = 0;
  let failures = 0;
  let running = false;
  const again = (/** @type {number} */ wait) => { if (!signal.aborted) timer = setTimeout(run, wait); };
  const run = async () => {
    clearTimeout(timer);
    if (running || signal.aborted) return;
    if (document.hidden) return;
    running = true;
    try {
      await work();
      if (failures) endOutage();
      failures = 0;
      again(ms);
    } catch (thrown) {
      if (signal.aborted) return;
      const problem = /** @type {any} */ (thrown);
      if (!problem.passes) return failed(problem);
      failures += 1;
      showOutage(problem);
      again(Math.max(Math.min(1000 * 2 ** (failures - 1), SLOWEST_MS), Math.min(problem.retryAfter, 60) * 1000));
    } finally {
      running = false;
    }
  };
  document.addEventListener('visibilitychange', run, { signal });
  addEventListener('online', run, { signal });
  signal.addEventListener('abort', () => { clearTimeout(timer); if (failures) endOutage(); });
  run();
  return run;
}
