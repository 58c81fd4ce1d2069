// Deliveries per hour of the last day, and how long they took, drawn as SVG; the same numbers as a table.
import { get, poll } from './http.js';
import { h, put, svg } from './dom.js';
import { clock, ms, number } from './words.js';

const EVERY_MS = 30_000;
const LEFT = 44, BARS = 96, TOP = 114, BOTTOM = 162, HEIGHT = 182;

export function chart(path, signal) {
	const figure = h('figure.card.chart', h('.drawing'));
	poll(figure, EVERY_MS, signal, async () => {
		const { data } = await get(`${path}/stats?window=24h`, signal);
		draw(figure, data, Math.max(figure.clientWidth - 40, 200));
	});
	return figure;
}

/** A count; an estimated one is a lower bound. */
const counted = (n, estimated) => (estimated ? '≥ ' : '') + number(n);
const cells = (one) => [clock(one.start), counted(one.succeeded, one.estimated), counted(one.failed, one.estimated), ms(one.p50_ms), ms(one.p99_ms)];
const COLUMNS = ['Hour', 'Succeeded', 'Failed', 'p50', 'p99'];

function draw(figure, data, width) {
	const sum = (key) => counted(data.reduce((total, bucket) => total + bucket[key], 0), data.some((bucket) => bucket.estimated));
	const most = nice(Math.max(4, ...data.map((bucket) => bucket.succeeded + bucket.failed)));
	const slowest = nice(Math.max(10, ...data.map((bucket) => bucket.p99_ms)));
	const step = (width - LEFT) / data.length;
	const x = (i) => LEFT + i * step;
	const up = (n) => BARS - (n / most) * BARS;
	const line = (key) => svg(`path.${key}`, { d: data.map((bucket, i) => {
		if (bucket[key] === null) return '';
		const y = BOTTOM - (bucket[key] / slowest) * (BOTTOM - TOP);
		// A short line per hour, so that a single hour between empty ones is visible.
		return `${(data[i - 1]?.[key] ?? null) === null ? 'M' : 'L'}${x(i + 0.25)} ${y}H${x(i + 0.75)}`;
	}).join('') });
	const scale = (y, text) => [svg('line.rule', { x1: LEFT, x2: width, y1: y, y2: y }), svg('text', { x: LEFT - 6, y: y + 4, 'text-anchor': 'end' }, text)];
	const hours = width < 480 ? 6 : 3;
	const summary = [`${sum('succeeded')} succeeded`, `${sum('failed')} failed`];
	const key = (name, text) => h(`span.key.${name}`, text);
	// Kept when the chart is drawn again: the table may be open and have the focus.
	const details = figure.querySelector('details') ?? h('details', h('summary', 'Numbers'), h('table'));
	if (!details.parentNode) put(figure, details);
	while (details.previousSibling) details.previousSibling.remove();
	details.before(
		h('figcaption', h('h2', 'Last 24 hours'), key('good', summary[0]), key('bad', summary[1]), key('p50_ms', 'p50'), key('p99_ms', 'p99 duration')),
		svg('svg.drawing', { viewBox: `0 0 ${width} ${HEIGHT}`, role: 'img', 'aria-label': `Deliveries per hour: ${summary.join(', ')}` },
			scale(0, number(most)), scale(BARS, 0), scale(TOP, ms(slowest)), scale(BOTTOM, 0),
			data.map((bucket, i) => {
				const good = up(bucket.succeeded), bad = up(bucket.succeeded + bucket.failed), bar = { x: x(i + 0.12), width: step * 0.76 };
				return svg('g', svg('title', cells(bucket).map((value, n) => `${COLUMNS[n]}: ${value}`).join(', ')),
					svg('rect.hit', { x: x(i), width: step, height: BOTTOM }),
					svg('rect.good', { ...bar, y: good, height: BARS - good }),
					svg('rect.bad', { ...bar, y: bad, height: good - bad }),
					i % hours === 1 && svg('text', { x: x(i + 0.5), y: HEIGHT - 5, 'text-anchor': 'middle' }, clock(bucket.start)));
			}),
			line('p50_ms'), line('p99_ms')));
	put(details.lastChild, h('thead', h('tr', COLUMNS.map((name) => h('th', { scope: 'col' }, name)))),
		h('tbody', [...data].reverse().map((bucket) => h('tr', cells(bucket).map((value, i) => (i ? h('td', value) : h('th', { scope: 'row' }, value)))))));
}

/** Rounds up to 1, 2, 3 or 5 times a power of ten. */
function nice(n) {
	const power = 10 ** Math.floor(Math.log10(n));
	return power * [1, 2, 3, 5, 10].find((times) => times * power >= n);
}
