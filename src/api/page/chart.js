// Attempts per hour of the last day, and how long they took, drawn as SVG. A slider reads one hour; the same numbers as a table.
import { get, poll } from './http.js';
import { h, put, svg } from './dom.js';
import { clock, ms, number } from './words.js';

const EVERY_MS = 30_000;
const LEFT = 44, BARS = 96, TOP = 114, BOTTOM = 162, HEIGHT = 182;
/** Half of the slider's handle: see page.css. */
const HANDLE = 8;

/** The chart of a webhook. The event `grown` tells it that there are new attempts. */
export function chart(path, signal) {
	const caption = h('figcaption'), picture = h('div', { pointerleave: () => read(place()) }), line = h('p.hint'), table = h('table');
	const slider = h('input', { type: 'range', min: 0, 'aria-label': 'Hour', input: () => choose(Number(slider.value)) });
	const figure = h('figure.card.chart', h('.drawing'));
	let data, width, chosen, growth = 0;
	const refresh = poll(figure, EVERY_MS, signal, async () => {
		for (let seen = -1; seen !== growth;) {
			seen = growth;
			({ data } = await get(`${path}/stats?window=24h`, signal));
		}
		width = 0;
		fit();
	});
	figure.addEventListener('grown', () => { growth += 1; refresh(); });
	// In the next frame: drawing changes what is being observed.
	const sizes = new ResizeObserver(() => requestAnimationFrame(fit));
	sizes.observe(figure);
	signal.addEventListener('abort', () => sizes.disconnect());

	function fit() {
		const room = Math.max(figure.firstElementChild.clientWidth, 200);
		if (!data || room === width) return;
		width = room;
		if (!table.isConnected) put(figure, caption,
			h('p.hint', 'Half of the requests took at most p50, 99 of 100 at most p99. Tests are not counted.'),
			picture, h('.reader', slider, line), h('details', h('summary', 'Numbers'), table));
		draw();
	}

	function draw() {
		const sum = (key) => `${counted(data.reduce((total, bucket) => total + bucket[key], 0), data.some(({ estimated }) => estimated))} ${key}`;
		const key = (name, text) => h(`span.key.${name}`, text), [good, bad] = [sum('succeeded'), sum('failed')];
		const step = (width - LEFT) / data.length;
		put(caption, h('h2', 'Last 24 hours'), key('good', good), key('bad', bad), key('p50_ms', 'p50'), key('p99_ms', 'p99 duration'));
		put(picture, drawing(data, width, step, `Attempts per hour: ${good}, ${bad}`, read, choose));
		put(table, h('thead', h('tr', COLUMNS.map((name) => h('th', { scope: 'col' }, name)))),
			h('tbody', [...data].reverse().map((bucket) => h('tr', cells(bucket).map((value, i) => (i ? h('td', value) : h('th', { scope: 'row' }, value)))))));
		slider.max = data.length - 1;
		// The handle goes from the middle of the first hour to that of the last.
		slider.style.margin = `0 ${step / 2 - HANDLE}px 0 ${LEFT + step / 2 - HANDLE}px`;
		slider.style.width = `${(data.length - 1) * step + 2 * HANDLE}px`;
		read(place());
	}

	/** The hour that is chosen, with the slider or by a click. At first the present hour. */
	function place() {
		const before = data.findIndex(({ start }) => start === chosen);
		return before < 0 ? data.length - 1 : before;
	}

	function choose(i) {
		chosen = i < data.length - 1 ? data[i].start : null;
		read(i);
	}

	/** Shows one hour: the chosen one, or that under the pointer while it moves. */
	function read(i) {
		const [hour, succeeded, failed, p50, p99] = cells(data[i]);
		const text = `From ${hour}: ${succeeded} succeeded, ${failed} failed${data[i].p50_ms === null ? '' : `, p50 ${p50}, p99 ${p99}`}`;
		slider.value = i;
		slider.setAttribute('aria-valuetext', text);
		picture.querySelectorAll('g').forEach((one, n) => one.classList.toggle('read', n === i));
		put(line, text);
	}

	return figure;
}

/** A count; an estimated one is a lower bound. */
const counted = (n, estimated) => (estimated ? '≥ ' : '') + number(n);
const COLUMNS = ['Hour', 'Succeeded', 'Failed', 'p50', 'p99'];
const cells = ({ start, succeeded, failed, estimated, p50_ms: p50, p99_ms: p99 }) =>
	[clock(start), counted(succeeded, estimated), counted(failed, estimated), ms(p50), ms(p99)];

/** The bars and lines. `read` is called with the number of the hour over which the pointer moves, `choose` with that of a click. */
function drawing(data, width, step, label, read, choose) {
	const most = nice(Math.max(4, ...data.map(({ succeeded, failed }) => succeeded + failed)));
	const slowest = nice(Math.max(10, ...data.map((bucket) => bucket.p99_ms)));
	const x = (i) => LEFT + i * step, up = (n) => BARS - (n / most) * BARS;
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
		data.map(({ succeeded, failed, start }, i) => {
			const good = up(succeeded), bad = up(succeeded + failed), bar = { x: x(i + 0.12), width: step * 0.76 };
			return svg('g', { pointermove: () => read(i), click: () => choose(i) },
				svg('rect.hit', { x: x(i), width: step, height: BOTTOM }),
				svg('rect.good', { ...bar, y: good, height: BARS - good }),
				svg('rect.bad', { ...bar, y: bad, height: good - bad }),
				i % hours === 1 && svg('text', { x: x(i + 0.5), y: HEIGHT - 5, 'text-anchor': 'middle' }, clock(start)));
		}),
		line('p50_ms'), line('p99_ms'));
}

/** Rounds up to 1, 2, 3 or 5 times a power of ten. */
function nice(n) {
	const power = 10 ** Math.floor(Math.log10(n));
	return power * [1, 2, 3, 5, 10].find((times) => times * power >= n);
}
