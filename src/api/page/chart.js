// Deliveries per hour of the last day, and how long they took, drawn as SVG; the same numbers as a table.
import { get, poll, webhookPath } from './http.js';
import { h, put, svg } from './dom.js';
import { clock, count, ms, number } from './words.js';

const EVERY_MS = 30_000;
const LEFT = 44, BARS = 96, GAP = 18, LINES = 48, FOOT = 20;

export function chart(id, signal) {
	const figure = h('figure.card.chart', { 'aria-label': 'Deliveries of the last 24 hours' }, h('.drawing'));
	let data = null;
	let width = 0;
	const redraw = () => { if (data && figure.clientWidth) draw(figure, data); };
	const observer = new ResizeObserver(() => {
		if (figure.clientWidth !== width) { width = figure.clientWidth; redraw(); }
	});
	observer.observe(figure);
	signal.addEventListener('abort', () => observer.disconnect());
	poll(EVERY_MS, signal, async () => {
		data = (await get(`${webhookPath(id)}/stats?window=24h`, signal)).data;
		redraw();
	}, () => put(figure, h('p.muted', 'The chart could not be loaded.')));
	return figure;
}

function draw(figure, data) {
	const shownTable = figure.querySelector('details')?.open;
	const sum = (key) => data.reduce((total, bucket) => total + bucket[key], 0);
	const succeeded = sum('succeeded'), failed = sum('failed');
	const width = Math.max(figure.clientWidth - 32, 200);
	const step = (width - LEFT) / data.length;
	const most = nice(Math.max(...data.map((bucket) => bucket.succeeded + bucket.failed), 4));
	const slowest = nice(Math.max(...data.map((bucket) => bucket.p99_ms ?? 0), 10));
	const x = (i) => LEFT + i * step;
	const up = (n) => BARS - (n / most) * BARS;
	const down = (ms) => BARS + GAP + LINES - (ms / slowest) * LINES;
	const line = (key) => {
		let pen = 'M', path = '';
		data.forEach((bucket, i) => {
			if (bucket[key] === null) { pen = 'M'; return; }
			// A short stroke, so that an hour alone between empty ones is seen.
			path += `${pen}${x(i) + step * 0.25} ${down(bucket[key])}L${x(i) + step * 0.75} ${down(bucket[key])}`;
			pen = 'L';
		});
		return svg('path', { class: key, d: path });
	};
	const label = (y, text) => svg('text', { x: LEFT - 6, y: y + 4, 'text-anchor': 'end' }, text);
	const rule = (y) => svg('line.rule', { x1: LEFT, x2: width, y1: y, y2: y });
	const every = width < 480 ? 6 : 3;
	const drawing = svg('svg', { width, height: BARS + GAP + LINES + FOOT, role: 'img', 'aria-label': `${count(succeeded, 'success', 'successes')} and ${count(failed, 'failure')} in the last 24 hours. The table below has the numbers.` },
		svg('defs', svg('pattern', { id: 'hatch', width: 5, height: 5, patternUnits: 'userSpaceOnUse', patternTransform: 'rotate(45)' },
			svg('rect.bad', { width: 5, height: 5 }), svg('line.stripe', { y2: 5 }))),
		rule(0.5), rule(BARS), rule(BARS + GAP), rule(BARS + GAP + LINES),
		label(6, number(most)), label(BARS - 4, '0'), label(BARS + GAP + 2, `${number(slowest)} ms`), label(BARS + GAP + LINES, '0'),
		data.map((bucket, i) => {
			const good = up(bucket.succeeded), bad = up(bucket.succeeded + bucket.failed), bar = { x: x(i) + step * 0.12, width: step * 0.76 };
			return svg('g', svg('title', told(bucket)),
				svg('rect.hit', { x: x(i), width: step, height: BARS + GAP + LINES }),
				svg('rect.good', { ...bar, y: good, height: BARS - good }),
				svg('rect', { fill: 'url(#hatch)', ...bar, y: bad, height: good - bad }),
				i % every === 1 && svg('text', { x: x(i) + step / 2, y: BARS + GAP + LINES + 15, 'text-anchor': 'middle' }, clock(bucket.start)));
		}),
		line('p50_ms'), line('p99_ms'));
	const key = (name, text) => h('span', { class: `key ${name}` }, text);
	put(figure,
		h('figcaption', h('h2', 'Last 24 hours'), key('good', `${number(succeeded)} succeeded`), key('bad', `${number(failed)} failed`), key('p50', 'p50'), key('p99', 'p99 duration')),
		h('.drawing', drawing),
		h('details', { open: shownTable }, h('summary', 'Numbers'),
			h('.scroll', { tabindex: 0, role: 'group', 'aria-label': 'Numbers of the last 24 hours' }, h('table', {},
				h('thead', h('tr', ['Hour', 'Succeeded', 'Failed', 'p50', 'p99'].map((name) => h('th', { scope: 'col' }, name)))),
				h('tbody', [...data].reverse().map((bucket) => h('tr', h('th', { scope: 'row' }, clock(bucket.start)),
					[number(bucket.succeeded), number(bucket.failed), ms(bucket.p50_ms), ms(bucket.p99_ms)].map((value) => h('td', value)))))))));
}

const told = ({ start, succeeded, failed, p50_ms: p50, p99_ms: p99 }) =>
	`${clock(start)}: ${number(succeeded)} succeeded, ${number(failed)} failed${p50 === null ? '' : `, p50 ${number(p50)} ms, p99 ${number(p99)} ms`}`;

/** The next round number: 1, 2 or 5 times a power of ten. */
function nice(n) {
	const power = 10 ** Math.floor(Math.log10(n));
	return [1, 2, 5, 10].map((one) => one * power).find((one) => one >= n);
}
