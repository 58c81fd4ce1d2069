// Deliveries per hour of the last day, and how long they took, drawn as SVG. A slider reads one hour; the same numbers as a table.
import { get, poll } from './http.js';
import { h, put, svg } from './dom.js';
import { clock, ms, number } from './words.js';

const EVERY_MS = 30_000;
const LEFT = 44, BARS = 96, TOP = 114, BOTTOM = 162, HEIGHT = 182;
/** Half of the slider's handle: see page.css. */
const HANDLE = 8;

/** The chart of a webhook. The event `grown` tells it that there are new attempts. */
export function chart(path, signal) {
	const figure = h('figure.card.chart', h('.drawing'));
	let data, width, growth = 0;
	const redraw = () => {
		const room = Math.max(figure.firstElementChild.clientWidth, 200);
		if (!data || room === width) return;
		width = room;
		draw(figure, data, width);
	};
	const refresh = poll(figure, EVERY_MS, signal, async () => {
		for (let counted = -1; counted !== growth;) {
			counted = growth;
			({ data } = await get(`${path}/stats?window=24h`, signal));
		}
		width = 0;
		redraw();
	});
	figure.addEventListener('grown', () => { growth += 1; refresh(); });
	// In the next frame: drawing changes what is being observed.
	const sizes = new ResizeObserver(() => requestAnimationFrame(redraw));
	sizes.observe(figure);
	signal.addEventListener('abort', () => sizes.disconnect());
	return figure;
}

/** A count; an estimated one is a lower bound. */
const counted = (n, estimated) => (estimated ? '≥ ' : '') + number(n);
const cells = (one) => [clock(one.start), counted(one.succeeded, one.estimated), counted(one.failed, one.estimated), ms(one.p50_ms), ms(one.p99_ms)];
const COLUMNS = ['Hour', 'Succeeded', 'Failed', 'p50', 'p99'];

function draw(figure, data, width) {
	const sum = (key) => counted(data.reduce((total, bucket) => total + bucket[key], 0), data.some((bucket) => bucket.estimated));
	const summary = [`${sum('succeeded')} succeeded`, `${sum('failed')} failed`];
	const key = (name, text) => h(`span.key.${name}`, text);
	// Kept when the chart is drawn again: they may have the focus, or be open.
	const reader = figure.querySelector('.reader') ?? hourReader();
	const details = figure.querySelector('details') ?? h('details', h('summary', 'Numbers'), h('table'));
	if (!details.parentNode) put(figure, reader, details);
	while (reader.previousSibling) reader.previousSibling.remove();
	reader.before(
		h('figcaption', h('h2', 'Last 24 hours'), key('good', summary[0]), key('bad', summary[1]), key('p50_ms', 'p50'), key('p99_ms', 'p99 duration')),
		h('p.hint', 'Half of the requests took no longer than p50, and 99 of 100 no longer than p99. Tests are not counted.'),
		drawing(data, width, `Deliveries per hour: ${summary.join(', ')}`));
	reader.read(figure, data, (width - LEFT) / data.length);
	put(details.lastChild, h('thead', h('tr', COLUMNS.map((name) => h('th', { scope: 'col' }, name)))),
		h('tbody', [...data].reverse().map((bucket) => h('tr', cells(bucket).map((value, i) => (i ? h('td', value) : h('th', { scope: 'row' }, value)))))));
}

function drawing(data, width, label) {
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
	return svg('svg.drawing', { viewBox: `0 0 ${width} ${HEIGHT}`, role: 'img', 'aria-label': label },
		scale(0, number(most)), scale(BARS, 0), scale(TOP, ms(slowest)), scale(BOTTOM, 0),
		data.map((bucket, i) => {
			const good = up(bucket.succeeded), bad = up(bucket.succeeded + bucket.failed), bar = { x: x(i + 0.12), width: step * 0.76 };
			return svg('g',
				svg('rect.hit', { x: x(i), width: step, height: BOTTOM }),
				svg('rect.good', { ...bar, y: good, height: BARS - good }),
				svg('rect.bad', { ...bar, y: bad, height: good - bad }),
				i % hours === 1 && svg('text', { x: x(i + 0.5), y: HEIGHT - 5, 'text-anchor': 'middle' }, clock(bucket.start)));
		}),
		line('p50_ms'), line('p99_ms'));
}

/** Reads one hour: by keyboard and touch with the slider, by pointer over the chart. At first the present hour. */
function hourReader() {
	const slider = h('input', { type: 'range', min: 0, 'aria-label': 'Hour' }), line = h('p.muted');
	const own = h('.reader', slider, line);
	let chosen;
	own.read = (figure, data, step) => {
		const hours = [...figure.querySelectorAll('g')];
		const read = (i) => {
			chosen = i < data.length - 1 ? data[i].start : null;
			slider.value = i;
			hours.forEach((hour, n) => hour.classList.toggle('read', n === i));
			const text = told(data[i]);
			slider.setAttribute('aria-valuetext', text);
			put(line, text);
		};
		slider.max = data.length - 1;
		slider.oninput = () => read(Number(slider.value));
		hours.forEach((hour, i) => { hour.onpointerenter = () => read(i); });
		// The handle goes from the middle of the first hour to that of the last.
		slider.style.margin = `0 ${step / 2 - HANDLE}px 0 ${LEFT + step / 2 - HANDLE}px`;
		slider.style.width = `${(data.length - 1) * step + 2 * HANDLE}px`;
		const before = data.findIndex(({ start }) => start === chosen);
		read(before < 0 ? data.length - 1 : before);
	};
	return own;
}

function told(bucket) {
	const [hour, succeeded, failed, p50, p99] = cells(bucket);
	return `From ${hour}: ${succeeded} succeeded, ${failed} failed${bucket.p50_ms === null ? '' : `, p50 ${p50}, p99 ${p99}`}`;
}

/** Rounds up to 1, 2, 3 or 5 times a power of ten. */
function nice(n) {
	const power = 10 ** Math.floor(Math.log10(n));
	return power * [1, 2, 3, 5, 10].find((times) => times * power >= n);
}
