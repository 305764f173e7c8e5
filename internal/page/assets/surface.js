// The surface map: what every block of a disk is, as a grid of cells in reading order, from the
// whole disk down to single blocks. Kinds, names, letters and keys are those of `ublk-remap top`.
//
// mount(figure) turns <figure class="surface" data-device data-blocks data-block-size> into the
// map; data-device is the last part of the page's path.
// What the figure holds is kept as a table that can be unfolded. Live messages reach it as the DOM
// event 'ublk-remap:status', whose detail is the message. The map asks
// NAME/surface?from=&to=&cells= for as many cells as it draws, not for the table: its cost
// does not depend on how much is remapped.
//
// The attribute data-state of the figure says how far it is: loading, coarse (it is drawn, and
// finer cells are on their way), ready (what is shown is exact), or failed.

// What a cell shows. Of several the one that comes first.
const KINDS = [
	{ id: 'lost', letter: 'X', name: 'lost' },
	{ id: 'pending', letter: 'P', name: 'pending' },
	{ id: 'slow', letter: 'S', name: 'slow' },
	{ id: 'mapped', letter: 'R', name: 'remapped' },
	{ id: 'worn', letter: 'B', name: 'bad spare' },
	{ id: 'used', letter: 'U', name: 'spare in use' },
	{ id: 'metadata', letter: 'M', name: 'meta' },
	{ id: 'spare', letter: '+', name: 'spare' },
	{ id: 'displaced', letter: 'D', name: 'moved' },
	{ id: 'scrubbed', letter: '-', name: 'scrubbed' },
	{ id: 'before', letter: '=', name: 'scrubbed before' },
	{ id: 'plain', letter: '.', name: 'unread' },
];
const K = Object.fromEntries(KINDS.map((k, i) => [k.id, i]));
// An answer of larger cells says that one of them has something, but not which.
const UNSURE = KINDS.length;
const NONE = KINDS.length + 1; // there is no disk

// Cells of kinds that are counted are filled from below, by the share of their blocks that are of
// their kind, in so many steps. A look is a row of the atlas: a kind with a step.
const STEPS = 4;
const COUNTED = K.used; // and the kinds before it
const LOOKS = (COUNTED + 1) * STEPS + UNSURE - COUNTED;
const NO_LOOK = 255;

function lookOf(kind, step) {
	return kind > COUNTED ? (COUNTED + 1) * STEPS + kind - COUNTED - 1 : kind * STEPS + step - 1;
}

// stepOf is how full a cell is drawn if n of its blocks are of its kind: fully from a half on, and
// less by the logarithm, since a block of a million is to be seen, and a thousand are to look more.
function stepOf(n, of) {
	if (2 * n >= of) {
		return STEPS;
	}
	return 1 + Math.min(STEPS - 2, Math.floor((STEPS - 1) * Math.log(n) / Math.log(of / 2)));
}

const CELL = 12; // CSS pixels of a cell, with its gap
const ROWS = 28;
const MAX_CELLS = 4096; // of one answer: control.MaxSurface
const TILES = 48; // that are kept
const ZOOM_MS = 180;
const REFRESH_MS = 2000; // between two looks at what has changed, at least,
const REFRESH_SHARE = 20; // and so many times as long as one takes
const SCRUB_STEPS = 32; // of a pass, after each of which its findings are asked for
const RETRY_MS = [300, 600, 1200, 2500, 5000];

const number = new Intl.NumberFormat('en');
const count = (n) => number.format(n);

// bytes is a size, as humanize.IBytes of the terminal has it.
function bytes(n) {
	const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];
	if (n < 10) {
		return `${n} B`;
	}
	const e = Math.min(Math.floor(Math.log(n) / Math.log(1024)), units.length - 1);
	const v = Math.floor((n / 1024 ** e) * 10 + 0.5) / 10;
	return `${v < 10 && e > 0 ? v.toFixed(1) : Math.round(v)} ${units[e]}`;
}

function plural(n, one, many) {
	return `${count(n)} ${n === 1 ? one : many}`;
}

// age is how long ago a time was.
function age(time, now) {
	const s = Math.max(0, (now - Date.parse(time)) / 1000);
	if (s < 90) {
		return 'a moment ago';
	}
	for (const [unit, of, least] of [['days', 86400, 2], ['hours', 3600, 2]]) {
		if (s >= of * least) {
			return `${count(Math.floor(s / of))} ${unit} ago`;
		}
	}
	return `${count(Math.floor(s / 60))} minutes ago`;
}

// moment is a time to the second, UTC, as everywhere in this program.
function moment(time) {
	const t = new Date(time);
	return Number.isNaN(t.getTime()) ? '' : `${t.toISOString().slice(0, 19).replace('T', ' ')} UTC`;
}

const CAUSES = {
	write: 'a write failed',
	read: 'a read failed',
	operator: 'asked for',
	import: 'imported',
	scrub: 'found by a scrub',
	retest: 'found well by a retest',
	spare: 'its spare unit failed',
};

function make(tag, attributes = {}, ...children) {
	const e = document.createElement(tag);
	for (const [name, value] of Object.entries(attributes)) {
		e.setAttribute(name, value);
	}
	e.append(...children);
	return e;
}

// merged returns the cells of an answer with the blocks that are slow to read, which it has as
// ranges, and the spare units counted in them.
function merged(answer) {
	const { from, per_cell: per, slow = [], spares = [] } = answer;
	if (slow.length === 0 && spares.length === 0) {
		return answer.cells;
	}
	const cells = new Map(answer.cells.map((c) => [c.cell, { ...c }]));
	for (const { cell, units, used = 0, bad = 0 } of spares) {
		cells.set(cell, { ...cells.get(cell), cell, units, used, bad });
	}
	for (const r of slow) {
		let at = Math.max(r.block, from);
		const end = Math.min(r.block + r.count, answer.to);
		while (at < end) {
			const cell = Math.floor((at - from) / per);
			const next = Math.min(end, from + (cell + 1) * per);
			const c = cells.get(cell) || { cell };
			c.slow = (c.slow || 0) + next - at;
			cells.set(cell, c);
			at = next;
		}
	}
	return [...cells.values()].sort((a, b) => a.cell - b.cell);
}

// Tile is an answer: the cells of a range that are not plain home, in ascending order.
class Tile {
	constructor(answer) {
		this.from = answer.from;
		this.per = answer.per_cell;
		this.cells = merged(answer);
		this.n = this.cells.length;
		this.starts = new Float64Array(this.n);
		this.kinds = new Uint8Array(this.n);
		this.counts = new Float64Array(this.n); // how many are of this kind
		this.of = new Float64Array(this.n); // and how many there are
		this.cells.forEach((c, i) => {
			const start = answer.from + c.cell * answer.per_cell;
			const [kind, n] = c.lost ? [K.lost, c.lost] : c.pending ? [K.pending, c.pending]
				: c.slow ? [K.slow, c.slow] : c.mapped ? [K.mapped, c.mapped]
				: c.bad ? [K.worn, c.bad] : c.used ? [K.used, c.used] : [NONE, 0];
			this.starts[i] = start;
			this.kinds[i] = kind;
			this.counts[i] = n;
			this.of[i] = kind > K.mapped ? c.units || 1
				: Math.max(1, Math.min(answer.per_cell, answer.to - start));
		});
	}

	// first is the index of the first cell that ends behind a block.
	first(block) {
		let lo = 0;
		let hi = this.n;
		while (lo < hi) {
			const mid = (lo + hi) >> 1;
			if (this.starts[mid] + this.per > block) {
				hi = mid;
			} else {
				lo = mid + 1;
			}
		}
		return lo;
	}

	// bad returns the first cell with something bad that has blocks from a on and before b, or the
	// last one if way is negative; -1 if there is none.
	bad(way, a, b) {
		let i = this.first(a);
		if (way < 0) {
			i = this.n - 1;
			while (i >= 0 && this.starts[i] >= b) {
				i--;
			}
		}
		for (; i >= 0 && i < this.n; i += way) {
			if (this.starts[i] >= b || this.starts[i] + this.per <= a) {
				break;
			}
			if (this.kinds[i] <= K.mapped) {
				return i;
			}
		}
		return -1;
	}
}

// regionKind is what a region of a disk looks like.
function regionKind(kind) {
	switch (kind) {
		case 'spare':
			return K.spare;
		case 'displaced-head':
		case 'displaced-tail':
			return K.displaced;
		default:
			return K.metadata;
	}
}

// spareWords says what spare units there are in a cell.
function spareWords(p) {
	if (p.units === 0 || p.coarse) {
		return 'spare region';
	}
	if (p.units === 1) {
		return p.bad > 0 ? 'a bad spare unit' : p.used > 0 ? 'a spare unit in use'
			: 'a free spare unit';
	}
	const bad = p.bad > 0 ? `, ${count(p.bad)} bad` : '';
	return `spare region, ${count(p.used)} of ${count(p.units)} units in use${bad}`;
}

// Disk is what is known of the disk: the tiles, the regions, the scrub.
class Disk {
	constructor(blocks, blockSize) {
		this.blocks = blocks; // of the device
		this.total = blocks; // with what lies behind it on the disk
		this.blockSize = blockSize;
		this.regions = []; // {start, end, kind, region}, in blocks
		this.segments = []; // {start, end, kind}: disjoint, in ascending order
		this.tiles = new Map(); // by level and number; the last one used is the last
		this.whole = null; // a tile of the whole disk
		this.scrub = null;
		this.tells = false; // of all that there is
		this.status = null;
	}

	// take takes what every answer says of the whole disk.
	take(answer) {
		this.blocks = answer.size_blocks || this.blocks;
		this.blockSize = answer.block_size || this.blockSize;
		if (answer.scrub) {
			this.scrub = answer.scrub;
			this.tells = true;
		}
		this.regions = (answer.regions || []).filter((r) => r.backing && r.length > 0).map((r) => ({
			start: Math.floor(r.start / this.blockSize),
			end: Math.ceil((r.start + r.length) / this.blockSize),
			kind: regionKind(r.kind),
			region: r,
		}));
		this.total = this.regions.reduce((n, r) => Math.max(n, r.end), this.blocks);
		const cuts = [...new Set(this.regions.flatMap((r) => [r.start, r.end]))];
		cuts.sort((a, b) => a - b);
		this.segments = [];
		for (let i = 0; i + 1 < cuts.length; i++) {
			const over = this.regions.filter((r) => r.start < cuts[i + 1] && cuts[i] < r.end);
			if (over.length > 0) {
				this.segments.push({ start: cuts[i], end: cuts[i + 1],
					kind: Math.min(...over.map((r) => r.kind)) });
			}
		}
	}

	// scrubbed is the kind of plain blocks before b.
	scrubbed(b) {
		const s = this.scrub;
		if (!s || b > this.blocks) {
			return K.plain;
		}
		if (s.state !== 'idle' && b <= s.position) {
			return K.scrubbed;
		}
		if (s.last_finished) {
			return s.state === 'idle' ? K.scrubbed : K.before;
		}
		return K.plain;
	}

	// level returns the size of cells on a level: the whole disk is level 0 and has fit blocks in
	// each.
	static levels(fit) {
		const all = [Math.max(1, fit)];
		while (all[all.length - 1] > 1) {
			all.push(Math.ceil(all[all.length - 1] / 2));
		}
		return all;
	}

	tile(per, i) {
		const key = `${per}:${i}`;
		const t = this.tiles.get(key);
		if (t) {
			this.tiles.delete(key);
			this.tiles.set(key, t);
		}
		return t;
	}

	keep(per, i, tile) {
		this.tiles.delete(`${per}:${i}`);
		this.tiles.set(`${per}:${i}`, tile);
		for (const key of this.tiles.keys()) {
			if (this.tiles.size <= TILES) {
				break;
			}
			this.tiles.delete(key);
		}
	}

	// looks fills in what cells show, in one pass: cells of per blocks, from a block on. levels are
	// the sizes of cells for which there may be tiles, those to use first at the beginning. A cell
	// of a tile may be so many times as large as trust and still tell what each of its parts is;
	// one that is larger does so only if all of its blocks are alike.
	looks(out, n, from, per, levels, trust) {
		let tile = null;
		let until = -1; // the tile is the right one for blocks before this
		let at = 0; // of the tile's cells
		let seg = 0;
		const segments = this.segments;
		for (let i = 0; i < n; i++) {
			const a = from + i * per;
			if (a >= this.total || a + per <= 0) {
				out[i] = NO_LOOK;
				continue;
			}
			const b = Math.min(a + per, this.total);
			if (a >= until) {
				[tile, until] = this.best(a, levels);
				at = tile ? tile.first(a) : 0;
			}
			let kind = NONE;
			let unsure = false;
			let count = 0;
			let of = 0;
			if (tile) {
				const trusted = tile.per <= trust * per;
				while (at < tile.n && tile.starts[at] + tile.per <= a) {
					at++;
				}
				for (let j = at; j < tile.n && tile.starts[j] < b; j++) {
					const k = tile.kinds[j];
					if (!trusted && tile.counts[j] < tile.of[j]) {
						unsure ||= k !== NONE;
					} else if (k < kind) {
						kind = k;
						count = tile.counts[j];
						of = tile.of[j];
					} else if (k === kind) {
						count += tile.counts[j];
						of += tile.of[j];
					}
				}
				if (kind <= K.mapped) {
					of = Math.max(of, b - a); // cells that are not told of have none
				}
			}
			if (kind > K.mapped) {
				kind = unsure ? UNSURE : Math.min(kind, this.scrubbed(b));
				while (seg < segments.length && segments[seg].end <= a) {
					seg++;
				}
				for (let j = seg; !unsure && j < segments.length && segments[j].start < b; j++) {
					kind = Math.min(kind, segments[j].kind);
				}
			}
			out[i] = lookOf(kind, kind <= COUNTED ? stepOf(count, of) : 0);
		}
	}

	// best returns the tile to use for a block, and up to which block.
	best(block, levels) {
		for (const per of levels) {
			const size = per * MAX_CELLS;
			const i = Math.floor(Math.max(block, 0) / size);
			const t = this.tile(per, i);
			if (t) {
				return [t, (i + 1) * size];
			}
		}
		// The next tile may have what this one lacks.
		const least = Math.max(...levels.slice(0, 1), 1) * MAX_CELLS;
		return [this.whole, (Math.floor(Math.max(block, 0) / least) + 1) * least];
	}

	// part sums up what is known of the blocks from a on and before b.
	part(a, b, levels) {
		const p = { lost: 0, pending: 0, slow: 0, mapped: 0, units: 0, used: 0, bad: 0,
			coarse: false, known: false, time: '', cause: '', regions: [] };
		const [tile] = this.best(a, levels);
		p.known = Boolean(tile);
		for (let i = tile ? tile.first(a) : 0; tile && i < tile.n && tile.starts[i] < b; i++) {
			const c = tile.cells[i];
			p.lost += c.lost || 0;
			p.pending += c.pending || 0;
			p.slow += c.slow || 0;
			p.mapped += c.mapped || 0;
			p.units += c.units || 0;
			p.used += c.used || 0;
			p.bad += c.bad || 0;
			p.coarse ||= tile.starts[i] < a || tile.starts[i] + tile.per > b;
			if (c.time && c.time > p.time) {
				p.time = c.time;
				p.cause = c.cause || '';
			}
		}
		p.regions = this.regions.filter((r) => r.start < b && a < r.end).map((r) => r.region);
		return p;
	}

	// words says what the blocks from a on and before b are.
	words(a, b, levels, now) {
		let text = b > a + 1 ? `blocks ${count(a)} to ${count(b - 1)}` : `block ${count(a)}`;
		text += ` (${bytes((b - a) * this.blockSize)} at ${bytes(a * this.blockSize)}): `;
		const p = this.part(a, b, levels);
		const is = [];
		for (const [n, what] of [[p.lost, 'lost'], [p.pending, 'pending'], [p.slow, 'slow'],
			[p.mapped, 'in the spare region']]) {
			if (n > 0) {
				is.push(p.coarse || b > a + 1 ? `${count(n)} ${what}` : what);
			}
		}
		if (is.length > 0 && p.coarse) {
			return `${text}not known yet; somewhere near: ${is.join(', ')}`;
		}
		if (is.length > 0 && p.time) {
			const why = CAUSES[p.cause] ? `, ${CAUSES[p.cause]}` : '';
			is.push(b > a + 1 ? `the last change ${moment(p.time)}`
				: `since ${moment(p.time)}${why}`);
		}
		is.push(...this.regionWords(p));
		if (is.length === 0) {
			is.push(p.known ? 'as on the disk' : 'not known yet');
			is.push(this.scrubWords(b, now));
		}
		return text + is.join(', ');
	}

	regionWords(p) {
		const all = new Set();
		for (const r of p.regions) {
			switch (r.kind) {
				case 'spare':
					all.add(spareWords(p));
					break;
				case 'mirror':
					all.add(`metadata mirror (${r.state || 'no state'})`);
					break;
				case 'head':
					all.add('start of the disk, whose data lives elsewhere');
					break;
				case 'displaced-head':
					all.add("data of the disk's start");
					break;
				case 'displaced-tail':
					all.add("data of the disk's end");
					break;
				default:
					all.add(r.kind);
			}
		}
		return all;
	}

	scrubWords(b, now) {
		const s = this.scrub;
		switch (this.scrubbed(b)) {
			case K.scrubbed:
				if (s.state === 'idle') {
					return `read by a scrub that ended ${age(s.last_finished, now)}`;
				}
				return s.started ? `read by the scrub that began ${age(s.started, now)}`
					: 'read by the scrub that is under way';
			case K.before:
				return `read by a scrub that ended ${age(s.last_finished, now)}`;
			default:
				return 'not read by a scrub';
		}
	}
}

// Loader fetches what is wanted, one question at a time: a server answers two tables at once, and
// has others to answer.
class Loader {
	constructor(url, done, failed) {
		this.url = url;
		this.done = done;
		this.failed = failed;
		this.queue = []; // {key, from, to}: what is wanted, the first one first
		this.now = null; // {want, abort}
		this.tries = 0;
		this.timer = 0;
		this.took = 0; // the last answer, in ms
	}

	// want replaces what is wanted. What is under way and not wanted any more is given up.
	want(list) {
		if (this.now && !list.some((w) => w.key === this.now.want.key)) {
			this.now.abort.abort();
			this.now = null;
		}
		this.queue = list.filter((w) => !this.now || w.key !== this.now.want.key);
		this.next();
	}

	get busy() {
		return this.now !== null || this.queue.length > 0;
	}

	async next() {
		if (this.now || this.queue.length === 0 || this.timer) {
			return;
		}
		const want = this.queue.shift();
		const abort = new AbortController();
		this.now = { want, abort };
		const began = performance.now();
		try {
			const q = new URLSearchParams({ from: want.from, cells: MAX_CELLS });
			if (want.to !== null) {
				q.set('to', want.to);
			}
			const res = await fetch(`${this.url}?${q}`, { signal: abort.signal, cache: 'no-store',
				headers: { Accept: 'application/json' } });
			if (!res.ok) {
				// What a proxy answers is a page of its own.
				const own = res.headers.get('Content-Type')?.startsWith('text/plain');
				throw new Error((own && (await res.text()).trim().slice(0, 200))
					|| `the answer was ${res.status} ${res.statusText}`.trim());
			}
			const answer = await res.json();
			this.took = performance.now() - began;
			if (this.now?.abort !== abort) {
				return;
			}
			this.now = null;
			this.tries = 0;
			this.done(want, answer);
		} catch (err) {
			if (abort.signal.aborted) {
				return;
			}
			this.now = null;
			this.queue.unshift(want);
			this.later(err);
		}
		this.next();
	}

	later(err) {
		const wait = RETRY_MS[Math.min(this.tries, RETRY_MS.length - 1)];
		this.tries++;
		this.timer = setTimeout(() => {
			this.timer = 0;
			this.next();
		}, wait);
		this.failed(err, this.tries);
	}
}

// SurfaceMap is the map in the page.
class SurfaceMap {
	constructor(figure) {
		this.figure = figure;
		const d = figure.dataset;
		this.disk = new Disk(Number(d.blocks) || 0, Number(d.blockSize) || 512);
		this.from = 0; // where the view begins, in blocks; what is drawn moves towards it
		this.level = 0; // 0: the whole disk
		this.cursor = 0; // block
		this.shown = { from: 0, per: 1 }; // what is drawn
		this.motion = null;
		this.pointers = new Map();
		this.marks = new Set();
		this.trouble = ''; // why there is no answer
		this.untold = d.untold || ''; // why nobody can be asked
		this.stale = false;
		this.lastRefresh = 0;
		this.refreshTimer = 0;
		this.still = window.matchMedia('(prefers-reduced-motion: reduce)');
		this.build();
		this.loader = new Loader(`./${d.device}/surface`,
			(want, answer) => this.loaded(want, answer), (err, tries) => this.failed(err, tries));
		this.listen();
		this.resize();
		this.setState('loading');
		this.want();
	}

	// The elements.

	build() {
		const rest = [...this.figure.childNodes];
		const caption = rest.find((e) => e.nodeName === 'FIGCAPTION');
		const table = make('details', { class: 'surface-table' }, make('summary', {}, 'As a table'),
			...rest.filter((e) => e !== caption));
		const id = `surface-${SurfaceMap.next++}`;
		const button = (text, label, run) => {
			const b = make('button', { type: 'button', 'aria-label': label, title: label }, text);
			b.addEventListener('click', run);
			return b;
		};
		this.out = button('−', 'Zoom out', () => this.zoomAtCursor(-1));
		this.in = button('+', 'Zoom in', () => this.zoomAtCursor(1));
		this.all = button('Whole disk', 'Show the whole disk', () => this.reset());
		this.prev = button('‹ Previous bad', 'Previous bad place', () => this.nextBad(-1));
		this.nextb = button('Next bad ›', 'Next bad place', () => this.nextBad(1));
		this.scale = make('span', { class: 'surface-scale' });
		for (const b of [this.in, this.out, this.all, this.prev, this.nextb]) {
			b.disabled = true; // until there is a map
		}
		const tools = make('div', { class: 'surface-tools', role: 'group', 'aria-label': 'Map' },
			this.out, this.in, this.all, this.prev, this.nextb, this.scale);
		this.canvas = make('canvas', { 'aria-hidden': 'true' });
		this.note = make('p', { class: 'surface-note' });
		this.box = make('div', { class: 'surface-map', tabindex: '0', role: 'application',
			'aria-roledescription': 'map', 'aria-describedby': `${id}-keys`,
			'aria-label': 'Surface map' }, this.canvas, this.note);
		this.tip = make('div', { class: 'surface-tip', 'aria-hidden': 'true' });
		this.tip.hidden = true;
		this.text = make('p', { class: 'surface-words', 'aria-live': 'polite' });
		this.legend = make('ul', { class: 'surface-legend', 'aria-label': 'Legend' });
		const keys = make('p', { class: 'surface-keys', id: `${id}-keys` },
			'Arrow keys, Page Up, Page Down, Home and End move the cursor; + and - zoom, 0 shows ' +
			'the whole disk; n and N go to the next and the previous bad place. Drag to move; ' +
			'the wheel zooms once the map has the focus, or with Ctrl; a double click zooms in.');
		this.figure.replaceChildren(...(caption ? [caption] : []), tools, this.box, this.text,
			this.legend, keys, table);
		document.body.append(this.tip);
		this.context = this.canvas.getContext('2d', { alpha: false });
		this.drawLegend();
	}

	setState(state) {
		this.figure.dataset.state = state;
		this.box.setAttribute('aria-busy', String(state === 'loading'));
	}

	listen() {
		new ResizeObserver(() => this.resize()).observe(this.box);
		const dark = window.matchMedia('(prefers-color-scheme: dark)');
		dark.addEventListener('change', () => this.recolor());
		for (const e of ['beforeprint', 'afterprint']) {
			window.addEventListener(e, () => {
				this.recolor();
				this.draw();
			});
		}
		this.figure.addEventListener('ublk-remap:status', (e) => this.status(e.detail));
		this.box.addEventListener('keydown', (e) => this.key(e));
		this.box.addEventListener('focus', () => this.redraw());
		this.box.addEventListener('blur', () => this.redraw());
		this.canvas.addEventListener('wheel', (e) => this.wheel(e), { passive: false });
		this.canvas.addEventListener('dblclick', (e) => this.zoomAt(this.cellOf(e), 1));
		this.canvas.addEventListener('pointerdown', (e) => this.down(e));
		this.canvas.addEventListener('pointermove', (e) => this.move(e));
		for (const name of ['pointerup', 'pointercancel']) {
			this.canvas.addEventListener(name, (e) => this.up(e));
		}
		this.canvas.addEventListener('pointerleave', () => this.hideTip());
		document.addEventListener('keydown', (e) => {
			if (e.key === 'Escape') {
				this.hideTip();
			}
		});
		document.addEventListener('visibilitychange', () => {
			if (!document.hidden && this.stale) {
				this.refreshSoon();
			}
		});
	}

	// What is seen, and how it is drawn.

	get cells() {
		return this.columns * ROWS;
	}

	get per() {
		return this.levels[this.level];
	}

	measure() {
		const cells = this.cells;
		this.levels = Disk.levels(Math.ceil(Math.max(this.disk.total, 1) / cells));
	}

	resize() {
		const width = this.box.clientWidth;
		const ratio = window.devicePixelRatio || 1;
		if (width === 0) {
			return;
		}
		const columns = Math.max(8, Math.floor(width / CELL));
		if (columns === this.columns && ratio === this.ratio) {
			return;
		}
		const per = this.columns && this.level > 0 ? this.per : 0;
		this.columns = Math.min(columns, Math.floor(MAX_CELLS / ROWS));
		this.ratio = ratio;
		this.px = Math.max(4, Math.round(CELL * ratio)); // device pixels of a cell
		this.canvas.width = this.columns * this.px;
		this.canvas.height = ROWS * this.px;
		this.canvas.style.width = `${this.canvas.width / ratio}px`;
		this.canvas.style.height = `${this.canvas.height / ratio}px`;
		this.measure();
		if (per > 0) {
			this.level = this.levels.findIndex((x) => x <= per);
		}
		this.looks = new Uint8Array(this.cells);
		this.atlas = null;
		this.go(this.from, true);
	}

	recolor() {
		this.atlas = null;
		this.redraw();
	}

	// paint draws a row of cells of each look, to be copied from. The rest of the time nothing is
	// drawn but copies.
	paint() {
		const style = window.getComputedStyle(this.figure);
		const color = (name) => style.getPropertyValue(`--surface-${name}`).trim() || 'gray';
		const px = this.px;
		const c = document.createElement('canvas');
		c.width = px * this.columns;
		c.height = px * LOOKS;
		const g = c.getContext('2d');
		this.background = color('background');
		this.ring = color('cursor');
		g.fillStyle = this.background;
		g.fillRect(0, 0, c.width, c.height);
		g.font = `bold ${Math.round(px * 0.72)}px "DejaVu Sans Mono", ui-monospace, monospace`;
		g.textAlign = 'center';
		const rest = parseFloat(color('rest')) / 100;
		for (let kind = 0; kind <= UNSURE; kind++) {
			const id = KINDS[kind]?.id ?? 'unsure';
			for (let step = 1; step <= (kind > COUNTED ? 1 : STEPS); step++) {
				const y = px * lookOf(kind, step);
				if (kind <= COUNTED) {
					this.paintFilled(g, y, kind, step, color(id), color(`${id}-ink`), rest);
				} else {
					this.paintCell(g, y, kind, color(id), color(`${id}-ink`));
				}
				for (let n = 1; n < this.columns; n *= 2) {
					g.drawImage(c, 0, y, n * px, px, n * px, y, n * px, px);
				}
			}
		}
		this.atlas = c;
	}

	// side is that of a cell without the gap, in device pixels.
	get side() {
		return this.px - Math.max(1, Math.round(this.ratio));
	}

	// paintFilled draws the first cell of a row, filled up to a step. The rest has a share of the
	// colour.
	paintFilled(g, y, kind, step, color, ink, rest) {
		const side = this.side;
		const high = Math.round((side * step) / STEPS);
		g.fillStyle = color;
		g.globalAlpha = rest;
		g.fillRect(0, y, side, side - high);
		g.globalAlpha = 1;
		g.fillRect(0, y + side - high, side, high);
		this.paintLetter(g, y, KINDS[kind].letter, ink);
	}

	paintLetter(g, y, letter, ink) {
		const side = this.side;
		const m = g.measureText(letter);
		const high = m.actualBoundingBoxAscent - m.actualBoundingBoxDescent;
		g.fillStyle = ink;
		g.fillText(letter, side / 2, y + side / 2 + high / 2);
	}

	// paintCell draws the first cell of a row of a kind that is not counted.
	paintCell(g, y, kind, color, ink) {
		const side = this.side;
		const line = this.px - side;
		g.fillStyle = color;
		g.fillRect(0, y, side, side);
		if (kind === K.metadata || kind === K.displaced || kind === UNSURE) {
			this.paintLetter(g, y, KINDS[kind]?.letter ?? '?', ink);
			return;
		}
		g.fillStyle = ink;
		// The kinds that cover much have a quiet sign: a plus, a line, two, a point.
		g.globalAlpha = 0.6;
		const mid = Math.floor((side - line) / 2);
		const arm = kind === K.plain ? mid : Math.floor(side * (kind === K.spare ? 0.25 : 0.36));
		const wide = 2 * (mid - arm) + line;
		const up = kind === K.before ? line + 1 : 0;
		g.fillRect(arm, y + mid - up, wide, line);
		if (kind === K.before) {
			g.fillRect(arm, y + mid + up, wide, line);
		} else if (kind === K.spare) {
			g.fillRect(mid, y + arm, line, mid - arm);
			g.fillRect(mid, y + mid + line, line, mid - arm);
		}
		g.globalAlpha = 1;
	}

	redraw() {
		this.frame ||= requestAnimationFrame((t) => {
			this.frame = 0;
			this.draw(t);
		});
	}

	// preferred are the levels whose tiles are to be used for cells of per blocks, in that order:
	// the finest that is not finer than need be, then coarser ones, then finer ones.
	preferred(per) {
		const all = this.levels;
		let i = all.findIndex((p) => p <= per * 1.0001);
		i = i < 0 ? all.length - 1 : i;
		return [all[i], ...all.slice(0, i).reverse(), ...all.slice(i + 1, i + 3)];
	}

	draw(now = performance.now()) {
		if (!this.columns) {
			return;
		}
		this.step(now);
		if (!this.atlas) {
			this.paint();
		}
		const g = this.context;
		g.fillStyle = this.background;
		g.fillRect(0, 0, this.canvas.width, this.canvas.height);
		if (this.disk.whole) {
			this.drawCells(g);
			this.drawCursor();
			this.settle();
		}
		if (this.motion) {
			this.redraw();
		}
		this.say();
		this.markOnce();
	}

	drawCells(g) {
		const { from, per } = this.shown;
		const px = this.px;
		// What grows or shrinks has the looks that it had; what rests is exact.
		this.disk.looks(this.looks, this.cells, from, per, this.preferred(per),
			this.motion ? 2.001 : 1.001);
		// Neighbours that look alike are one copy.
		for (let row = 0; row < ROWS; row++) {
			const first = row * this.columns;
			for (let x = 0; x < this.columns;) {
				const look = this.looks[first + x];
				let end = x + 1;
				while (end < this.columns && this.looks[first + end] === look) {
					end++;
				}
				if (look !== NO_LOOK) {
					const wide = (end - x) * px;
					g.drawImage(this.atlas, 0, look * px, wide, px, x * px, row * px, wide, px);
				}
				x = end;
			}
		}
	}

	// markOnce notes when the map was there first, and when it was exact, for who measures that.
	markOnce() {
		for (const [name, is] of [['surface-drawn', this.disk.whole],
			['surface-ready', this.figure.dataset.state === 'ready']]) {
			if (is && !this.marks.has(name)) {
				this.marks.add(name);
				performance.mark(name);
			}
		}
	}

	drawCursor() {
		const i = Math.floor((this.cursor - this.shown.from) / this.shown.per);
		if (i < 0 || i >= this.cells || this.disk.total === 0) {
			return;
		}
		const g = this.context;
		const px = this.px;
		const w = Math.max(2, Math.round(2 * this.ratio));
		const x = (i % this.columns) * px;
		const y = Math.floor(i / this.columns) * px;
		g.strokeStyle = this.ring;
		g.lineWidth = w;
		const left = Math.max(x - w / 2, w / 2);
		const top = Math.max(y - w / 2, w / 2);
		g.strokeRect(left, top, x + px - left, y + px - top);
	}

	// say brings the texts up to date.
	say() {
		if (this.motion || !this.disk.whole) {
			return;
		}
		const [a, b] = this.cellAt(this.cursor);
		const words = this.disk.words(a, b, this.preferred(this.per), Date.now());
		if (this.text.textContent !== words) {
			this.text.textContent = words;
		}
		const per = this.per;
		let scale = per === 1 ? 'one block a cell'
			: `${count(per)} blocks (${bytes(per * this.disk.blockSize)}) a cell`;
		if (this.trouble) {
			scale += `; not up to date: ${this.trouble}`;
		}
		if (this.scale.textContent !== scale) {
			this.scale.textContent = scale;
		}
		this.in.disabled = this.level === this.levels.length - 1;
		this.out.disabled = this.level === 0;
		this.all.disabled = this.level === 0;
		if (this.tip.dataset.cell) {
			this.fillTip();
		}
	}

	// cellAt returns the blocks of the cell that a block is in.
	cellAt(block) {
		const per = this.per;
		const a = this.from + Math.floor((block - this.from) / per) * per;
		return [Math.max(a, 0), Math.min(a + per, this.disk.total)];
	}

	// Where the view goes.

	// clamp keeps a view on the disk: the last cell is never beyond the end, unless all cells are
	// not enough.
	clamp(from) {
		const per = this.per;
		const last = Math.ceil(this.disk.total / per);
		let cell = Math.round(from / per);
		// Rows begin where they are, so that what is seen does not shift sideways at the end.
		cell = Math.min(cell, last - this.cells + ((this.columns - (last % this.columns))
			% this.columns));
		return this.level === 0 ? 0 : Math.max(0, cell) * per;
	}

	go(from, at) {
		this.from = this.clamp(from);
		const to = { from: this.from, per: this.per };
		if (at || this.still.matches) {
			this.motion = null;
			this.shown = to;
		} else if (to.from !== this.shown.from || to.per !== this.shown.per) {
			this.motion = { was: { ...this.shown }, to, began: 0, anchor: this.anchor };
		}
		this.want();
		this.redraw();
	}

	// step moves what is drawn towards where it is to be.
	step(now) {
		const m = this.motion;
		if (!m) {
			return;
		}
		m.began ||= now;
		const t = Math.min(1, (now - m.began) / ZOOM_MS);
		if (t >= 1) {
			this.shown = m.to;
			this.motion = null;
			return;
		}
		const e = 1 - (1 - t) ** 3;
		const per = m.was.per * (m.to.per / m.was.per) ** e;
		if (m.was.per === m.to.per) {
			this.shown = { per, from: m.was.from + (m.to.from - m.was.from) * e };
			return;
		}
		// The share of the way that the size of a cell has gone is also that of the beginning, so
		// that a block between both stays where it is.
		const share = (per - m.was.per) / (m.to.per - m.was.per);
		this.shown = { per, from: m.was.from + (m.to.from - m.was.from) * share };
	}

	zoomAt(cell, by) {
		const level = Math.min(Math.max(this.level + by, 0), this.levels.length - 1);
		const block = Math.min(this.from + cell * this.per, this.disk.total - 1);
		if (level === this.level || block < 0) {
			return;
		}
		// What is bad in this cell is what one zooms in for.
		const end = Math.min(block + this.per, this.disk.total);
		if (by < 0) {
			this.aim = null;
		} else if (!this.aim && this.isBad(block, end)) {
			this.aim = { a: block, end, way: 1, further: false };
		}
		this.level = level;
		// A cursor in this cell stays where it is: cells of the next level begin elsewhere, so the
		// beginning of one could be before this one, and after some steps far away.
		if (this.cursor < block || this.cursor >= end) {
			this.cursor = block;
		}
		const per = this.per;
		this.go(Math.floor(this.cursor / per) * per - cell * per);
	}

	zoomAtCursor(by) {
		const cell = Math.floor((this.cursor - this.from) / this.per);
		this.zoomAt(Math.min(Math.max(cell, 0), this.cells - 1), by);
	}

	reset() {
		this.level = 0;
		this.aim = null;
		this.go(0);
	}

	// isBad tells whether there is something bad in a cell, or may be.
	isBad(a, b) {
		const one = new Uint8Array(1);
		this.disk.looks(one, 1, a, b - a, this.preferred(this.per), Infinity);
		return one[0] < lookOf(K.mapped + 1, 1);
	}

	// place puts the cursor on a block, and moves what is shown with it.
	place(block) {
		this.aim = null;
		this.moveTo(block);
	}

	moveTo(block) {
		this.cursor = Math.min(Math.max(block, 0), Math.max(this.disk.total - 1, 0));
		const row = this.columns * this.per;
		const cell = Math.floor((this.cursor - this.from) / this.per);
		if (cell < 0) {
			this.go(this.from + Math.floor(cell / this.columns) * row);
		} else if (cell >= this.cells) {
			this.go(this.from + (Math.floor(cell / this.columns) - ROWS + 1) * row);
		}
		this.redraw();
	}

	// The cursor aims at something bad that is somewhere between the blocks a and end: the first
	// one, or the last one if way is negative. These blocks are asked for as many cells as there
	// can be, until each is one block.

	// aimed takes such an answer.
	aimed(tile) {
		const aim = this.aim;
		const found = tile.bad(aim.way, aim.a, aim.end);
		if (found < 0) {
			this.aim = null;
			if (aim.further) {
				this.search(aim.way, aim.way > 0 ? aim.end : aim.a);
			}
			return;
		}
		const a = Math.max(tile.starts[found], aim.a);
		// Its very block: a cell of this answer begins elsewhere than one of the map, so who zooms
		// on meanwhile would see the one beside it.
		if (tile.per === 1) {
			this.place(a);
			return;
		}
		this.aim = { ...aim, a, end: Math.min(tile.starts[found] + tile.per, aim.end) };
	}

	// search aims at the next bad place behind a block, or before it.
	search(way, edge) {
		const all = this.disk.whole;
		const i = way > 0 ? all.bad(1, edge, Infinity) : all.bad(-1, -Infinity, edge);
		if (i < 0) {
			this.aim = null;
			return;
		}
		const start = all.starts[i];
		this.aim = { way, further: true, a: way > 0 ? Math.max(start, edge) : start,
			end: way > 0 ? start + all.per : Math.min(start + all.per, edge) };
		this.want();
	}

	// nextBad moves the cursor to the next cell with something bad, or the one before.
	nextBad(way) {
		if (!this.disk.whole) {
			return;
		}
		const [a, b] = this.cellAt(this.cursor);
		const size = this.per * MAX_CELLS;
		const tile = this.disk.tile(this.per, Math.floor(a / size));
		if (!tile) {
			this.search(way, way > 0 ? b : a);
			return;
		}
		const i = way > 0 ? tile.bad(1, b, Infinity) : tile.bad(-1, -Infinity, a);
		if (i < 0) {
			this.search(way, way > 0 ? tile.from + size : tile.from);
		} else {
			this.place(tile.starts[i]);
		}
	}

	// What people do.

	key(e) {
		if (e.ctrlKey || e.metaKey || e.altKey) {
			return;
		}
		const row = this.columns * this.per;
		const page = this.cells * this.per;
		const moves = { ArrowLeft: -this.per, ArrowRight: this.per, ArrowUp: -row, ArrowDown: row,
			h: -this.per, l: this.per, k: -row, j: row, PageUp: -page, PageDown: page };
		if (Object.hasOwn(moves, e.key)) {
			this.place(this.cellAt(this.cursor)[0] + moves[e.key]);
		} else {
			switch (e.key) {
				case 'Home':
				case 'g':
					this.place(0);
					break;
				case 'End':
				case 'G':
					this.place(this.disk.total - 1);
					break;
				case '+':
				case '=':
				case 'Enter':
					this.zoomAtCursor(1);
					break;
				case '-':
					this.zoomAtCursor(-1);
					break;
				case '0':
					this.reset();
					break;
				case 'n':
					this.nextBad(1);
					break;
				case 'N':
					this.nextBad(-1);
					break;
				default:
					return;
			}
		}
		e.preventDefault();
	}

	// cellOf is the number of the cell under the pointer.
	cellOf(e) {
		const r = this.canvas.getBoundingClientRect();
		const size = r.width / this.columns;
		const x = Math.floor((e.clientX - r.left) / size);
		const y = Math.floor((e.clientY - r.top) / size);
		return Math.min(Math.max(y, 0), ROWS - 1) * this.columns
			+ Math.min(Math.max(x, 0), this.columns - 1);
	}

	wheel(e) {
		if (!e.ctrlKey && document.activeElement !== this.box) {
			return; // the page scrolls
		}
		e.preventDefault();
		const lines = e.deltaMode === 0 ? e.deltaY / 40 : e.deltaY;
		// A pinch on a touchpad comes as many small turns with Ctrl.
		this.turned = (this.turned || 0) + lines * (e.ctrlKey && e.deltaMode === 0 ? 4 : 1);
		if (Math.abs(this.turned) >= 1) {
			this.zoomAt(this.cellOf(e), this.turned < 0 ? 1 : -1);
			this.turned = 0;
		}
	}

	down(e) {
		this.box.focus({ preventScroll: true });
		this.canvas.setPointerCapture(e.pointerId);
		this.pointers.set(e.pointerId, e);
		this.drag = { from: this.from, x: e.clientX, y: e.clientY, moved: false };
		if (this.pointers.size === 2) {
			this.pinch = { distance: this.distance(), level: this.level };
			this.drag = null;
		}
	}

	distance() {
		const [a, b] = [...this.pointers.values()];
		return Math.max(1, Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY));
	}

	move(e) {
		if (!this.pointers.has(e.pointerId)) {
			this.hover(e);
			return;
		}
		this.pointers.set(e.pointerId, e);
		if (this.pinch && this.pointers.size === 2) {
			const by = Math.round(Math.log2(this.distance() / this.pinch.distance));
			const [a, b] = [...this.pointers.values()];
			const level = this.pinch.level + by;
			if (level !== this.level) {
				this.zoomAt(this.cellOf({ clientX: (a.clientX + b.clientX) / 2,
					clientY: (a.clientY + b.clientY) / 2 }), level - this.level);
			}
			return;
		}
		const d = this.drag;
		if (!d) {
			return;
		}
		const x = Math.round((e.clientX - d.x) / CELL);
		const y = Math.round((e.clientY - d.y) / CELL);
		d.moved ||= x !== 0 || y !== 0;
		if (d.moved && this.level > 0) {
			this.hideTip();
			this.go(d.from - (y * this.columns + x) * this.per, true);
		}
	}

	up(e) {
		this.pointers.delete(e.pointerId);
		if (this.drag && !this.drag.moved && e.type === 'pointerup') {
			this.place(this.from + this.cellOf(e) * this.per);
			this.hover(e);
		}
		this.drag = null;
		if (this.pointers.size < 2) {
			this.pinch = null;
		}
	}

	hover(e) {
		this.tip.dataset.cell = this.cellOf(e);
		this.tip.dataset.x = e.clientX;
		this.tip.dataset.y = e.clientY;
		this.fillTip();
	}

	hideTip() {
		delete this.tip.dataset.cell;
		this.tip.hidden = true;
	}

	fillTip() {
		const { cell, x, y } = this.tip.dataset;
		const a = this.from + Number(cell) * this.per;
		if (!this.disk.whole || a >= this.disk.total) {
			this.tip.hidden = true;
			return;
		}
		this.tip.textContent = this.disk.words(a, Math.min(a + this.per, this.disk.total),
			this.preferred(this.per), Date.now());
		this.tip.hidden = false;
		const wide = document.documentElement.clientWidth;
		const left = Math.min(Number(x) + 14, wide - this.tip.offsetWidth - 6);
		const high = this.tip.offsetHeight;
		const top = Number(y) + 18 + high > window.innerHeight ? Number(y) - 12 - high
			: Number(y) + 18;
		this.tip.style.left = `${Math.max(6, left)}px`;
		this.tip.style.top = `${top}px`;
	}

	// What is asked for, and what comes.

	want() {
		if (this.untold || !this.columns || this.disk.blocks === 0) {
			this.loader.want([]);
			this.failed(null);
			return;
		}
		const list = [];
		if (this.aim) {
			const { a, end } = this.aim;
			list.push({ key: `aim:${a}:${end}`, aim: true, from: a, to: end });
		}
		if (!this.disk.whole || (this.stale && this.refreshing)) {
			list.push({ key: 'whole', from: 0, to: null });
		}
		if (this.disk.whole) {
			const per = this.per;
			const size = per * MAX_CELLS;
			// A server that does not tell of its scrub does not tell of what lies behind the
			// device either.
			const end = this.disk.tells ? this.disk.total : this.disk.blocks;
			const last = Math.min(this.from + this.cells * per, end);
			for (let i = Math.floor(this.from / size); i * size < last; i++) {
				const t = this.disk.tile(per, i);
				if (!t || t.stale) {
					list.push({ key: `${per}:${i}`, per, i, from: i * size, to: (i + 1) * size });
				}
			}
		}
		this.loader.want(list);
		this.settle();
	}

	settle() {
		const state = !this.disk.whole ? 'loading'
			: this.loader.busy || this.motion || this.untold ? 'coarse' : 'ready';
		if (this.figure.dataset.state !== state) {
			this.setState(state);
		}
	}

	loaded(want, answer) {
		this.note.textContent = '';
		this.trouble = '';
		const was = this.disk.total;
		const first = !this.disk.whole;
		this.disk.take(answer);
		const tile = new Tile(answer);
		if (want.aim) {
			if (this.aim?.a === want.from && this.aim.end === want.to) {
				this.aimed(tile);
			}
		} else if (want.key === 'whole') {
			this.disk.whole = tile;
			this.prev.disabled = tile.bad(1, -Infinity, Infinity) < 0;
			this.nextb.disabled = this.prev.disabled;
		} else {
			this.disk.keep(want.per, want.i, tile);
		}
		if (first || was !== this.disk.total) {
			const per = this.per;
			this.measure();
			this.level = this.level === 0 ? 0
				: Math.max(0, this.levels.findIndex((x) => x <= per));
			this.go(this.from, true);
		} else {
			this.want();
		}
		this.drawLegend();
		this.redraw();
	}

	failed(err, tries = 1) {
		if (err && tries < 2) {
			return;
		}
		// Texts of a browser's own errors are for programmers. What fetch throws is a TypeError.
		const why = !err ? this.untold || 'its size is not known'
			: err instanceof TypeError ? 'the monitor does not answer'
			: err instanceof SyntaxError ? 'the answer was cut short' : err.message;
		if (this.disk.whole) {
			this.trouble = why;
			this.redraw();
		} else {
			this.note.textContent = err ? `The map did not come: ${why}. It is asked for again.`
				: `There is no map now: ${why}.`;
			this.setState('failed');
		}
	}

	// status takes a live message in. If blocks have changed, what is shown is asked for again,
	// after a while; what is known is shown until then.
	status(message) {
		const st = message.status;
		if (!st) {
			return; // there is no such device any more
		}
		const was = this.untold;
		this.untold = message.untold ?? '';
		if (this.untold) {
			// What the map shows is what was known last.
			this.want();
			return;
		}
		if (was) {
			this.stale = true;
			this.refreshSoon();
		}
		this.disk.status = st;
		if (st.size_blocks > 0) {
			this.disk.blocks = st.size_blocks;
		}
		if (st.scrub) {
			this.disk.scrub = { ...this.disk.scrub, ...st.scrub };
		}
		const mark = JSON.stringify([st.metadata?.sequence, st.remaps, st.pending, st.lost,
			st.errors?.read, st.errors?.write, st.server_pid, st.size_blocks, st.scrub?.state,
			Math.floor((SCRUB_STEPS * st.scrub?.position) / st.scrub?.total)]);
		if (this.mark !== undefined && mark !== this.mark) {
			this.stale = true;
			this.refreshSoon();
		}
		this.mark = mark;
		if (!this.disk.whole && this.disk.blocks > 0 && !this.loader.busy) {
			this.measure();
			this.want();
		}
		this.drawLegend();
		this.redraw();
	}

	refreshSoon() {
		if (this.refreshTimer || document.hidden) {
			return;
		}
		const least = Math.max(REFRESH_MS, REFRESH_SHARE * this.loader.took);
		const wait = Math.max(0, this.lastRefresh + least - Date.now());
		this.refreshTimer = setTimeout(() => {
			this.refreshTimer = 0;
			this.lastRefresh = Date.now();
			for (const t of this.disk.tiles.values()) {
				t.stale = true;
			}
			this.refreshing = true;
			this.want();
			this.refreshing = false;
			this.stale = false;
		}, wait);
	}

	// drawLegend says what the colours and letters mean, and how much there is of each.
	drawLegend() {
		const st = this.disk.status || {};
		const s = this.disk.scrub;
		const now = Date.now();
		const more = {
			lost: st.lost > 0 ? plural(st.lost, 'block', 'blocks') : '',
			pending: st.pending > 0 ? plural(st.pending, 'block', 'blocks') : '',
			mapped: st.remaps > 0 ? plural(st.remaps, 'unit', 'units') : '',
			spare: st.spare ? `${count(st.spare.used)} of ${count(st.spare.total)} units used` : '',
		};
		const shown = new Set(KINDS.map((k) => k.id));
		if (!this.disk.tells) {
			shown.delete('worn');
			shown.delete('used');
		}
		if (!s || (s.state === 'idle' && !s.last_finished)) {
			shown.delete('scrubbed');
		} else if (s.state === 'idle') {
			more.scrubbed = age(s.last_finished, now);
		} else {
			more.scrubbed = s.started ? `by the pass that began ${age(s.started, now)}`
				: 'by the pass under way';
		}
		if (!s || s.state === 'idle' || !s.last_finished) {
			shown.delete('before');
		} else {
			more.before = age(s.last_finished, now);
			shown.delete('plain');
		}
		const items = KINDS.filter((k) => shown.has(k.id));
		const text = JSON.stringify(items.map((k) => [k.id, more[k.id]]));
		if (text === this.legendText) {
			return;
		}
		this.legendText = text;
		const shares = Array.from({ length: STEPS }, (_, i) => make('span',
			{ class: `surface-key surface-share-${i + 1}`, 'aria-hidden': 'true' }));
		this.legend.replaceChildren(...items.map((k) => make('li', {},
			make('span', { class: `surface-key surface-key-${k.id}` }, k.letter),
			` ${k.name}`, more[k.id] ? `: ${more[k.id]}` : '')),
			make('li', {}, ...shares, ' from few to most blocks of a cell'));
	}
}
SurfaceMap.next = 1;

// mount makes the map of a figure. It returns at once.
export function mount(figure) {
	return new SurfaceMap(figure);
}
