package page

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"ublkremap/internal/control"
	"ublkremap/internal/readable"
	"ublkremap/metadata"
)

// words is the text about the cell under the cursor of the map, scale the text about the size of
// cells.
func (w *tab) words() string {
	w.t.Helper()
	return eval[string](w, `document.querySelector(".surface-words").innerText`)
}

func (w *tab) scale() string {
	w.t.Helper()
	return eval[string](w, `document.querySelector(".surface-scale").innerText`)
}

// says waits until the text about the cell under the cursor contains all of these.
func (w *tab) says(texts ...string) {
	w.t.Helper()
	for _, text := range texts {
		w.until(fmt.Sprintf(`document.querySelector(".surface-words").innerText.includes(%q)`,
			text))
	}
}

// blocks returns the first and the last block of the cell under the cursor.
func (w *tab) blocks() (a, b uint64) {
	w.t.Helper()
	text := strings.ReplaceAll(w.words(), ",", "")
	if _, err := fmt.Sscanf(text, "blocks %d to %d ", &a, &b); err != nil {
		w.t.Fatalf("%v: %s", err, text)
	}
	return a, b
}

func (w *tab) focusMap() {
	w.t.Helper()
	w.run(chromedp.Focus(chromedp.CSS(".surface-map")))
}

// press presses keys, and waits until the map has come to rest.
func (w *tab) press(keys string) {
	w.t.Helper()
	w.run(chromedp.KeyEvent(keys))
	w.rests()
}

// rests waits until the map is drawn and nothing moves. Frames are drawn one after another.
func (w *tab) rests() {
	w.t.Helper()
	eval[bool](w, frames)
	w.mapIs("ready")
	eval[bool](w, frames)
}

// frames lets two frames be drawn.
const frames = `new Promise((f) => requestAnimationFrame(() => requestAnimationFrame(
	() => f(true))))`

// at returns where a cell of the map is in the window.
func (w *tab) at(column, row int) (x, y float64) {
	w.t.Helper()
	r := eval[[]float64](w, `(() => { const c = document.querySelector(".surface-map canvas");
		c.scrollIntoView({block: "center"}); const r = c.getBoundingClientRect();
		return [r.left, r.top]; })()`)
	return r[0] + 12*float64(column) + 5, r[1] + 12*float64(row) + 5
}

// lone is a disk with one pending unit and one lost one.
func lone() (*host, *disk) {
	d := newDisk(0, "lone", 64*gib)
	d.is(metadata.StatePending, 1000000, 1, 0xff)
	d.is(metadata.StateLost, 6000000, 1, 0x01)
	d.is(metadata.StateMapped, 6000100, 1, 0x01)
	d.slow = []control.Range{{Block: 100000000, Count: 8}}
	return &host{disks: []*disk{d}}, d
}

// looking returns how many cells of the map have the colour of a kind near their lower edge, as all
// have that are of this kind.
func (w *tab) looking(kind string) int {
	w.t.Helper()
	return w.filled(kind, 8)
}

// filled returns how many cells have the colour of a kind so many pixels below their upper edge.
func (w *tab) filled(kind string, row int) int {
	w.t.Helper()
	w.expect = append(w.expect, "willReadFrequently") // its advice is not for a test
	eval[bool](w, frames)
	return eval[int](w, fmt.Sprintf(`(() => {
		const c = document.querySelector(".surface-map canvas"), g = c.getContext("2d");
		const style = getComputedStyle(document.querySelector("figure.surface"));
		const probe = new OffscreenCanvas(1, 1).getContext("2d");
		probe.fillStyle = style.getPropertyValue("--surface-%[1]s");
		probe.fillRect(0, 0, 1, 1);
		const want = probe.getImageData(0, 0, 1, 1).data;
		const px = c.height / 28, all = g.getImageData(0, 0, c.width, c.height).data;
		let n = 0;
		for (let y = 0; y < 28; y++) {
			for (let x = 0; x < c.width / px; x++) {
				const i = 4 * ((y * px + %[2]d) * c.width + x * px);
				if (want.every((v, k) => Math.abs(v - all[i + k]) < 3)) n++;
			}
		}
		return n;
	})()`, kind, row))
}

// TestMapLoads: what is not known yet does not look bad. One lost block is somewhere in what a cell
// of the whole disk has; zoomed in there, it is not all that is seen.
func TestMapLoads(t *testing.T) {
	t.Parallel()
	h, d := lone()
	w := open(t, serve(t, h).URL, 1200, 900)
	w.expect = []string{notOK} // answers that take too long
	w.device("lone")
	w.live()
	w.run(chromedp.MouseClickXY(w.at(40, 12)))
	w.rests()
	a, _ := w.blocks()
	h.change("lone", func(*disk) { d.is(metadata.StateLost, a/perUnit+1, 1, 0x02) })
	w.says("1 lost")
	w.rests()
	if n := w.looking("lost"); n != 2 {
		t.Errorf("%d cells of the whole disk look lost", n)
	}
	held := make(chan struct{})
	h.mu.Lock()
	h.held = held
	h.mu.Unlock()
	w.focusMap()
	w.run(chromedp.KeyEvent(strings.Repeat("+", 20)))
	w.until(`document.querySelector(".surface-scale").innerText.startsWith("one block a cell")`)
	w.mapIs("coarse")
	// What is zoomed at is still under the cursor.
	w.says("block "+readable.Number(a)+" ", ": not known yet; somewhere near: 1 lost")
	for _, kind := range []string{"lost", "pending", "mapped", "slow"} {
		if n := w.looking(kind); n != 0 {
			t.Errorf("%d cells look %s, which is not known yet", n, kind)
		}
	}
	if n := w.looking("unsure"); n < 1000 {
		t.Errorf("%d cells say that they are not known yet", n)
	}
	w.shotOf("map-loading", "figure.surface")
	h.mu.Lock()
	h.held = nil
	h.mu.Unlock()
	close(held)
	w.rests()
	w.says(fmt.Sprintf("block %s ", readable.Number(a/perUnit*perUnit+perUnit+1)), ": lost")
	if n, m := w.looking("lost"), w.looking("unsure"); n != 1 || m != 0 {
		t.Errorf("%d cells look lost, %d not known", n, m)
	}
}

// TestMapDensity: a cell with one remapped unit looks otherwise than one with many.
func TestMapDensity(t *testing.T) {
	t.Parallel()
	d := newDisk(0, "dense", 64*gib)
	d.is(metadata.StateMapped, 1000000, 1, 0xff)
	d.is(metadata.StateMapped, 2000000, 30, 0xff)
	d.is(metadata.StateMapped, 3000000, 1000, 0xff)
	d.is(metadata.StateMapped, 4000000, 40000, 0xff) // some cells are full
	w := open(t, serve(t, &host{disks: []*disk{d}}).URL, 1200, 900)
	w.device("dense")
	w.live()
	w.rests()
	w.shotOf("map-density", "figure.surface")
	// A cell has 11 pixels; the first one of these places is within what is filled least.
	var got []int
	for _, row := range []int{9, 7, 4, 1} {
		got = append(got, w.filled("mapped", row))
	}
	full := got[3]
	if full < 4 || got[0] <= got[1] || got[1] <= got[2] || got[2] <= full {
		t.Errorf("so many cells are filled to a quarter, a half, three quarters and wholly: %d",
			got)
	}
}

// TestMapKeys: every key of the map, from the whole disk down to a block and back.
func TestMapKeys(t *testing.T) {
	t.Parallel()
	h, _ := lone()
	w := open(t, serve(t, h).URL, 1200, 900)
	w.device("lone")
	w.says("blocks 0 to", "start of the disk, whose data lives elsewhere", "metadata mirror (good)")
	whole := w.scale()
	w.focusMap()

	w.press("n")
	w.says("8 pending")
	w.press(strings.Repeat("+", 20))
	if got := w.scale(); got != "one block a cell" {
		t.Errorf("zoomed in: %q", got)
	}
	w.says("block 8,000,000 (512 B at 3.8 GiB): pending")
	w.shotOf("map-blocks", "figure.surface")
	w.press(kb.ArrowRight)
	w.says("block 8,000,001 ")
	w.press(kb.ArrowLeft + kb.ArrowLeft)
	w.says("block 7,999,999 ", "as on the disk", "read by a scrub that ended 3 days ago")
	w.press(kb.ArrowDown)
	w.press(kb.ArrowUp)
	w.says("block 7,999,999 ")
	w.press("n")
	w.says("block 8,000,000 ")
	w.press("h")
	w.press("l")
	w.says("block 8,000,000 ")
	w.press(kb.PageDown)
	w.press(kb.PageUp)
	w.says("block 8,000,000 ")

	w.press("nnnnnnn")
	w.says("block 8,000,007 ", ": pending, since 2026-03-01 11:55:00 UTC, a read failed")
	w.press("n") // beyond what is shown
	w.says("block 48,000,000 ", ": lost")
	w.press("n")
	w.says("block 48,000,800 ", ": in the spare region")
	w.press("n")
	w.says("block 100,000,000 ", ": slow")
	w.press("N")
	w.says("in the spare region")
	w.press("-")
	if got := w.scale(); got != "2 blocks (1.0 KiB) a cell" {
		t.Errorf("zoomed out by one: %q", got)
	}
	w.press(kb.End)
	w.says("metadata mirror")
	d := h.disks[0]
	for range d.regions[len(d.regions)-1].Length / 512 / 2 / 2548 {
		w.run(chromedp.KeyEvent(kb.PageUp))
	}
	w.press(kb.PageUp)
	w.says("spare unit")
	w.shotOf("map-spare", "figure.surface")
	w.press(kb.Home)
	w.says("blocks 0 to 1 ")
	w.press("0")
	if got := w.scale(); got != whole {
		t.Errorf("the whole disk: %q, at first %q", got, whole)
	}
	// What the browser does with keys of its own is left to it.
	if !eval[bool](w, `document.querySelector(".surface-map").dispatchEvent(
		new KeyboardEvent("keydown", {key: "l", ctrlKey: true, cancelable: true,
			bubbles: true}))`) {
		t.Error("Ctrl-L does not reach the browser")
	}
}

// TestMapMouse: wheel, double click, drag, hover and the buttons.
func TestMapMouse(t *testing.T) {
	t.Parallel()
	h, _ := lone()
	w := open(t, serve(t, h).URL, 1200, 1000)
	w.device("lone")
	whole := w.scale()
	x, y := w.at(10, 5)
	turn := func(by float64, mod int64) {
		w.t.Helper()
		call(w, input.DispatchMouseEvent, input.DispatchMouseEventParams{
			Type: input.DispatchMouseEventTypeMouseWheel, X: x, Y: y, DeltaX: 1e-6,
			DeltaY: by, Modifiers: mod})
		w.rests()
	}
	turn(-120, 0)
	if got := w.scale(); got != whole {
		t.Errorf("the wheel zooms a map that nobody has chosen: %q, was %q", got, whole)
	}
	x, y = w.at(10, 5)
	turn(-120, int64(chromedp.ModifierCtrl))
	once := w.scale()
	if once == whole {
		t.Error("the wheel with Ctrl does not zoom")
	}
	w.run(chromedp.MouseClickXY(x, y))
	turn(-120, 0)
	if got := w.scale(); got == once || got == whole {
		t.Errorf("the wheel does not zoom in: %q", got)
	}
	turn(120, 0)
	if got := w.scale(); got != once {
		t.Errorf("the wheel does not zoom out: %q, before %q", got, once)
	}
	// The cell under the pointer stays where it is.
	w.run(chromedp.MouseClickXY(x, y))
	w.rests()
	start, _ := w.blocks()
	turn(-120, 0)
	w.run(chromedp.MouseClickXY(x, y))
	w.rests()
	a, b := w.blocks()
	if start < a || start > b {
		t.Errorf("the cell at the pointer began with block %d, and now is %d to %d", start, a, b)
	}

	// A drag of two rows moves the map by two rows.
	press := func(kind input.DispatchMouseEventType, x, y float64, buttons int64) {
		w.t.Helper()
		call(w, input.DispatchMouseEvent, input.DispatchMouseEventParams{Type: kind, X: x, Y: y,
			Button: input.MouseButtonLeft, Buttons: buttons, ClickCount: 1})
	}
	press(input.DispatchMouseEventTypeMousePressed, x, y, 1)
	press(input.DispatchMouseEventTypeMouseMoved, x, y+12, 1)
	press(input.DispatchMouseEventTypeMouseMoved, x, y+24, 1)
	press(input.DispatchMouseEventTypeMouseReleased, x, y+24, 0)
	w.rests()
	w.run(chromedp.MouseClickXY(x, y+24))
	w.rests()
	if got, _ := w.blocks(); got != a {
		t.Errorf("dragged by two rows, block %d is where %d should be", got, a)
	}

	w.run(chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, x+60, y+60))
	w.until(`!document.querySelector(".surface-tip").hidden`)
	tip := eval[string](w, `document.querySelector(".surface-tip").innerText`)
	if !strings.HasPrefix(tip, "blocks ") || !strings.Contains(tip, "as on the disk") {
		t.Errorf("the tip says %q", tip)
	}
	w.shot("map-tip")
	w.press(kb.Escape)
	w.until(`document.querySelector(".surface-tip").hidden`)

	inner := w.scale()
	w.run(chromedp.MouseClickXY(x, y), chromedp.MouseClickXY(x, y, chromedp.ClickCount(2)))
	w.rests()
	if got := w.scale(); got == inner {
		t.Errorf("a double click does not zoom: %q", got)
	}
	click := func(label string) {
		w.t.Helper()
		w.run(chromedp.Click(chromedp.CSS(`.surface-tools [aria-label="` + label + `"]`)))
		w.rests()
	}
	click("Zoom out")
	if got := w.scale(); got != inner {
		t.Errorf("the button zooms out to %q, not %q", got, inner)
	}
	click("Show the whole disk")
	if got := w.scale(); got != whole {
		t.Errorf("the whole disk: %q", got)
	}
	w.focusMap()
	w.press(kb.Home)
	click("Next bad place")
	w.says("pending")
	click("Next bad place")
	click("Previous bad place")
	w.says("pending")
	click("Zoom in")
	if got := w.scale(); got != once {
		t.Errorf("the button zooms in to %q", got)
	}
}

// TestMapTouch: two fingers zoom, one finger moves the map sideways.
func TestMapTouch(t *testing.T) {
	t.Parallel()
	h, _ := lone()
	w := open(t, serve(t, h).URL, 390, 800)
	call(w, emulation.SetTouchEmulationEnabled,
		emulation.SetTouchEmulationEnabledParams{Enabled: true, MaxTouchPoints: 2})
	w.device("lone")
	whole := w.scale()
	x, y := w.at(14, 14)
	fingers := func(kind input.DispatchTouchEventType, apart ...float64) {
		w.t.Helper()
		p := input.DispatchTouchEventParams{Type: kind, TouchPoints: []*input.TouchPoint{}}
		for i, dx := range apart {
			id := float64(i)
			p.TouchPoints = append(p.TouchPoints, &input.TouchPoint{X: x + dx, Y: y, ID: &id})
		}
		call(w, input.DispatchTouchEvent, p)
	}
	fingers(input.DispatchTouchEventTypeTouchStart, -20, 20)
	for d := 25.0; d <= 85; d += 5 {
		fingers(input.DispatchTouchEventTypeTouchMove, -d, d)
	}
	fingers(input.DispatchTouchEventTypeTouchEnd)
	w.rests()
	if got := w.scale(); got == whole {
		t.Error("two fingers do not zoom")
	}
	w.run(chromedp.TapXY(x, y))
	w.rests()
	before := w.words()
	fingers(input.DispatchTouchEventTypeTouchStart, 0)
	for d := 4.0; d <= 36; d += 4 {
		fingers(input.DispatchTouchEventTypeTouchMove, d)
	}
	fingers(input.DispatchTouchEventTypeTouchEnd)
	w.rests()
	w.run(chromedp.TapXY(x+36, y))
	w.rests()
	if got := w.words(); got != before {
		t.Errorf("dragged by three cells there is %q, not %q", got, before)
	}
}

// TestMapLive: blocks that become bad are on the map without a reload, and are asked for only
// then.
func TestMapLive(t *testing.T) {
	t.Parallel()
	h, d := lone()
	w := open(t, serve(t, h).URL, 1200, 900)
	w.device("lone")
	w.live()
	w.focusMap()
	w.press("n" + strings.Repeat("+", 20))
	w.says("block 8,000,000 ")
	w.press(kb.ArrowLeft)
	w.says("block 7,999,999 ", "as on the disk")
	h.mu.Lock()
	asked := h.asked
	h.mu.Unlock()
	w.live()
	h.change("lone", func(*disk) { d.is(metadata.StateLost, 999999, 1, 0xff) })
	w.says("block 7,999,999 ", ": lost, since 2026-03-01 11:55:00 UTC")
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := h.asked - asked; n > 6 {
		t.Errorf("one change led to %d questions", n)
	}
	w.until(`document.querySelector(".surface-legend").innerText.includes("lost: 9 blocks")`)
}

// TestMapOfLateServer: a server that answers at last has a map without a reload, also if not even
// its size was known.
func TestMapOfLateServer(t *testing.T) {
	t.Parallel()
	h, d := lone()
	size := d.st.SizeBlocks
	d.err, d.st.SizeBlocks, d.st.State = errAway, 0, control.StateUnreachable
	w := open(t, serve(t, h).URL, 1200, 900)
	w.expect = []string{notOK}
	w.goTo("/device/lone")
	w.mapIs("failed")
	w.live()
	h.change("lone", func(*disk) {
		d.err, d.st.SizeBlocks, d.st.State = nil, size, control.StateLive
	})
	w.mapIs("ready")
	w.says("blocks 0 to ")
}

// TestMapResize: the map fits the window, sharply on any screen, and stays where it was.
func TestMapResize(t *testing.T) {
	t.Parallel()
	h, _ := lone()
	w := open(t, serve(t, h).URL, 1200, 900)
	w.device("lone")
	w.focusMap()
	w.press("n" + strings.Repeat("+", 20))
	w.says("block 8,000,000 ")
	for _, size := range []struct {
		width int64
		ratio float64
	}{{390, 3}, {700, 1.5}, {1920, 2}, {1200, 1}} {
		w.size(size.width, 900, size.ratio)
		w.rests()
		w.says("block 8,000,000 ", "pending")
		got := eval[[]float64](w, `(() => {
			const c = document.querySelector(".surface-map canvas"), r = c.getBoundingClientRect();
			return [c.width / r.width, r.right];
		})()`)
		if d := got[0] - size.ratio; d > 0.01 || d < -0.01 || got[1] > float64(size.width) {
			t.Errorf("at %d with %g pixels: %g pixels, right edge at %g", size.width, size.ratio,
				got[0], got[1])
		}
	}
}

// TestMapWithoutMotion: who wants no motion gets none: zooming takes one frame. The test is the
// clock of the frames.
func TestMapWithoutMotion(t *testing.T) {
	t.Parallel()
	h, _ := lone()
	w := open(t, serve(t, h).URL, 1200, 900)
	w.media("screen", "prefers-reduced-motion", "reduce")
	w.device("lone")
	drawn := `(async () => {
		const was = window.requestAnimationFrame;
		for (;;) {
			// A frame may be due for another reason, and would be this one too.
			await new Promise((f) => was(() => setTimeout(f)));
			let due = [], n = 0;
			window.requestAnimationFrame = (f) => due.push(f);
			document.querySelector('[aria-label="Zoom in"]').click();
			for (let t = performance.now(); due.length > 0 && n < 1000; t += 16, n++) {
				const now = due;
				due = [];
				now.forEach((f) => f(t));
			}
			window.requestAnimationFrame = was;
			if (n > 0) return n;
		}
	})()`
	if got := eval[int](w, drawn); got != 1 {
		t.Errorf("%d frames without motion", got)
	}
	w.rests()
	w.media("screen", "prefers-reduced-motion", "no-preference")
	if got := eval[int](w, drawn); got < 10 || got > 20 {
		t.Errorf("%d frames with motion", got)
	}
}
