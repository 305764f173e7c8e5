package page

import (
	"flag"
	"slices"
	"testing"
)

var measure = flag.Bool("measure", false, "measure how fast the map of a large disk is")

// zooming zooms in and out as fast as keys come, and returns the times between frames, and what the
// map takes to draw each of them, in ms.
const zooming = `(async () => {
	const drawn = [], was = window.requestAnimationFrame;
	window.requestAnimationFrame = (f) => was((t) => {
		const began = performance.now();
		f(t);
		drawn.push(performance.now() - began);
	});
	const map = document.querySelector(".surface-map");
	const key = (k) => map.dispatchEvent(new KeyboardEvent("keydown",
		{ key: k, bubbles: true, cancelable: true }));
	const times = [];
	let last = 0, run = true;
	const frame = (t) => {
		if (last) times.push(t - last);
		last = t;
		if (run) was(frame);
	};
	was(frame);
	const wait = (ms) => new Promise((f) => setTimeout(f, ms));
	for (let round = 0; round < 2; round++) {
		for (const k of "++++++++++++++++++++++++".split("")) { key(k); await wait(100); }
		for (const k of ["ArrowDown", "PageDown", "PageDown", "End", "Home"]) {
			key(k);
			await wait(200);
		}
		for (const k of "------------------------".split("")) { key(k); await wait(100); }
	}
	run = false;
	return [times, drawn];
})()`

// there is after how many ms a page can be read and used.
const there = `performance.getEntriesByType("navigation")[0].domContentLoadedEventEnd`

// idle counts the frames a second of a page that nobody touches, for five seconds.
const idle = `new Promise((f) => {
	let n = 0;
	const began = performance.now();
	const frame = (t) => {
		n++;
		if (t - began < 5000) requestAnimationFrame(frame);
		else f(1000 * n / (t - began));
	};
	requestAnimationFrame(frame);
})`

// TestLargeDisk: a disk of 16 TiB with a million remaps is shown, down to its blocks. With -measure
// it says how fast; no time makes it fail.
func TestLargeDisk(t *testing.T) {
	if !*measure {
		t.Parallel()
	}
	h := &host{disks: []*disk{manyRemaps()}}
	w := open(t, serve(t, h).URL, 1200, 900)
	w.device("huge")
	w.shotOf("map-large", "figure.surface")
	w.focusMap()
	w.press("nnn")
	for range 4 {
		w.press("++++++++")
	}
	if got := w.scale(); got != "one block a cell" {
		t.Errorf("zoomed in: %q", got)
	}
	w.says(": in the spare region, since ", ", a write failed")
	w.shotOf("map-large-blocks", "figure.surface")
	if !*measure {
		return
	}
	for range 3 {
		w.device("huge")
		t.Logf("the page is there after %.0f ms, the map is drawn after %.0f ms and exact after "+
			"%.0f ms", eval[float64](w, there), eval[float64](w, markOf("surface-drawn")),
			eval[float64](w, markOf("surface-ready")))
	}
	w.focusMap()
	both := eval[[][]float64](w, zooming)
	times, drawn := both[0], both[1]
	slices.Sort(times)
	slices.Sort(drawn)
	sum := 0.0
	for _, x := range times {
		sum += x
	}
	late := 0
	for _, x := range times {
		if x > 1.5*1000/60 {
			late++
		}
	}
	t.Logf("zooming: %d frames in %.1f s, %.1f a second; between two: median %.1f ms, 99 %% %.1f "+
		"ms, most %.1f ms; %d (%.1f %%) came late", len(times), sum/1000,
		float64(len(times))/sum*1000, times[len(times)/2], times[len(times)*99/100],
		times[len(times)-1], late, 100*float64(late)/float64(len(times)))
	t.Logf("drawing: median %.2f ms a frame, 99 %% %.2f ms, most %.2f ms", drawn[len(drawn)/2],
		drawn[len(drawn)*99/100], drawn[len(drawn)-1])
}

// markOf is when the page has set a mark first, in ms from when it was asked for.
func markOf(name string) string {
	return `performance.getEntriesByName("` + name + `")[0].startTime`
}
