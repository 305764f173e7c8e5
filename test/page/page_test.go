package page

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"ublkremap/internal/control"
	"ublkremap/internal/page"
)

// failing messages of a browser about answers that are no success.
const notOK = "Failed to load resource"

// TestFaultsAreSeen: what goes wrong in the browser makes a test fail.
func TestFaultsAreSeen(t *testing.T) {
	t.Parallel()
	w := open(t, serve(t, states()).URL, 1200, 900)
	w.goTo("/")
	w.live()
	eval[bool](w, `(() => {
		console.error("a message");
		setTimeout(() => { throw new Error("an exception"); });
		document.querySelector("footer").innerHTML = "<p style='color: red'>text</p>";
		return true;
	})()`)
	end := time.Now().Add(*patience)
	for _, want := range []string{"a message", "an exception", "Content Security Policy"} {
		for {
			w.mu.Lock()
			seen := slices.ContainsFunc(w.faults, func(f string) bool {
				return strings.Contains(f, want)
			})
			w.mu.Unlock()
			if seen {
				w.expect = append(w.expect, want)
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%q was not seen: %q", want, w.faults)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// TestStates: the page of each device says its state, and what to do.
func TestStates(t *testing.T) {
	t.Parallel()
	h := states()
	w := open(t, serve(t, h).URL, 1200, 900)
	w.expect = []string{notOK}
	for i, d := range h.disks {
		st := d.st
		w.goTo("/device/" + url.PathEscape(st.Name))
		w.live()
		if d.table == nil {
			w.mapIs("failed")
			w.until(`document.querySelector(".surface-note").innerText.startsWith(
				"There is no map now: ")`)
		} else {
			w.mapIs("ready")
		}
		text := strings.ToLower(eval[string](w, "document.body.innerText"))
		for _, want := range []string{string(st.State), st.Action} {
			if _, command, found := strings.Cut(want, ": "); found {
				want = command
			}
			if d.err == nil && !strings.Contains(text, strings.ToLower(want)) {
				t.Errorf("the page of %q does not say %q", st.Name, want)
			}
		}
		name := st.Name
		if name == hostile {
			name = "hostile"
		}
		w.shot(fmt.Sprintf("state-%d-%s", i, name))
	}
}

// TestHostileNames: a name that is markup, or turns a text around, is text.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	h := states()
	w := open(t, serve(t, h).URL, 1200, 900)
	w.goTo("/")
	if n := eval[int](w, `document.querySelectorAll("script").length`); n != 1 {
		t.Errorf("%d scripts", n)
	}
	w.run(chromedp.Click(chromedp.CSS(`#devices a[href*="script"]`)))
	w.mapIs("ready")
	text := eval[string](w, "document.body.innerText")
	if strings.ContainsAny(text, "\x1b\u202e") || !strings.Contains(text, "<script>") {
		t.Errorf("the name is not shown as text: %q", text)
	}
	w.accessible("a hostile name")
}

// TestManyDevices: a page with 64 devices. With -measure it says how fast.
func TestManyDevices(t *testing.T) {
	if !*measure {
		t.Parallel()
	}
	h := &host{}
	for i := range 64 {
		h.disks = append(h.disks, newDisk(i, fmt.Sprintf("disk-%02d", i), gib*uint64(1+i)))
	}
	h.disks[40].st.State, h.disks[40].st.Reason = control.StateTripped, "remaps came too fast"
	w := open(t, serve(t, h).URL, 1200, 900)
	w.goTo("/")
	names := eval[[]string](w, `[...document.querySelectorAll("#devices th[scope=row] a")].map(
		(a) => a.innerText)`)
	if len(names) != 64 || names[0] != "disk-40" {
		t.Errorf("%d devices: %v", len(names), names)
	}
	if *measure {
		w.live()
		t.Logf("64 devices: the page is there after %.0f ms, and %.1f frames a second are shown "+
			"while it is kept up to date", eval[float64](w, there), eval[float64](w, idle))
	}
	w.accessible("64 devices")
	w.shot("many")
	w.size(390, 844, 1)
	w.fits()
	w.shot("many-phone")
}

// TestWithoutScript: without JavaScript there are tables with all of it.
func TestWithoutScript(t *testing.T) {
	t.Parallel()
	w := open(t, serve(t, states()).URL, 1200, 900)
	call(w, emulation.SetScriptExecutionDisabled,
		emulation.SetScriptExecutionDisabledParams{Value: true})
	w.goTo("/")
	w.shot("overview-without-script")
	w.goTo("/device/media")
	if got := eval[int](w, `document.querySelectorAll(".surface canvas").length`); got != 0 {
		t.Fatal("there is JavaScript")
	}
	text := eval[string](w, `document.querySelector("figure.surface").innerText`)
	for _, want := range []string{"Where blocks are not at home", "Pending", "spare units"} {
		if !strings.Contains(text, want) {
			t.Errorf("the surface as a table lacks %q:\n%s", want, text)
		}
	}
	if n := eval[int](w, `document.querySelectorAll("figure.surface tbody tr").length`); n < 8 {
		t.Errorf("%d rows", n)
	}
	w.shot("device-without-script")
	// What is loaded stays without, but axe-core needs it.
	call(w, emulation.SetScriptExecutionDisabled,
		emulation.SetScriptExecutionDisabledParams{Value: false})
	w.accessible("a device without JavaScript")
}

// TestKeyboard: Tab goes over everything that can be used, in the order in which it is seen.
func TestKeyboard(t *testing.T) {
	t.Parallel()
	w := open(t, serve(t, states()).URL, 1200, 900)
	w.device("media")
	focus := func() string {
		return eval[string](w, `(() => { const e = document.activeElement;
			return e === document.body ? "" : e.getAttribute("aria-label") ||
				e.innerText.trim().split("\n")[0]; })()`)
	}
	var order []string
	for range 40 {
		w.run(chromedp.KeyEvent(kb.Tab))
		at := focus()
		if at == "" {
			break
		}
		order = append(order, at)
		if !eval[bool](w, `document.activeElement.matches(":focus-visible")`) {
			t.Errorf("the focus is not seen on %q", at)
		}
	}
	last := -1
	for _, want := range []string{"Skip to the content", "ublk-remap", "All devices",
		"ublk-remap health media", "Zoom in", "Previous bad place", "Next bad place", "Surface map",
		"As a table", "What happened, the newest first", "Metrics"} {
		i := slices.IndexFunc(order, func(s string) bool { return strings.HasSuffix(s, want) })
		if i <= last {
			t.Errorf("%q comes at %d, after %d: %q", want, i, last, order)
		}
		last = i
	}
	// The first one leads to the content.
	w.goTo("/device/media")
	w.run(chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(kb.Enter))
	w.until(`document.activeElement.id === "main"`)
	// The table can be unfolded.
	w.run(chromedp.Focus(chromedp.CSS(".surface-table summary")), chromedp.KeyEvent(" "))
	w.until(`document.querySelector(".surface-table").open`)
	w.accessible("the surface as a table")
}

// TestLive: what changes is on the page without a reload, and stays there.
func TestLive(t *testing.T) {
	t.Parallel()
	h := states()
	w := open(t, serve(t, h).URL, 1200, 900)
	w.goTo("/")
	w.live()
	h.change("archive", func(d *disk) {
		d.st.State, d.st.Reason, d.st.Action = control.StateTripped, "too many remaps",
			"ublk-remap resume archive"
		d.st.Pending = 4711
	})
	w.until(`document.getElementById("devices").innerText.includes("ublk-remap resume archive")`)
	w.until(`document.getElementById("devices").innerText.includes("4711")
		|| document.getElementById("devices").innerText.includes("4,711")`)
	h.mu.Lock()
	h.disks = append(h.disks, newDisk(20, "newcomer", gib))
	h.mu.Unlock()
	w.until(`document.getElementById("devices").innerText.includes("newcomer")`)
	h.mu.Lock()
	h.disks = h.disks[:len(h.disks)-1]
	h.mu.Unlock()
	w.until(`!document.getElementById("devices").innerText.includes("newcomer")`)
}

// TestDisappears: a device that is gone while its page is open is not shown any more. It is shown
// when it comes back; so is one that was not there at first.
func TestDisappears(t *testing.T) {
	t.Parallel()
	h := states()
	all := h.disks
	has := func(disks []*disk) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.disks = disks
	}
	w := open(t, serve(t, h).URL, 1200, 900)
	w.expect = []string{notOK}
	w.device("media")
	w.live()
	has(all[:1])
	w.until(`document.querySelector("h1").innerText.includes("media is not here")`)
	if eval[bool](w, `["#figures", "#surface", "#events"].some((s) =>
		document.querySelector(s).checkVisibility())`) {
		t.Error("old figures are shown of a device that is gone")
	}
	w.accessible("a device that is gone")
	w.shot("gone")
	has(all)
	w.until(`document.querySelector("#figures").checkVisibility()`)
	w.mapIs("ready")
	has(all[:1])
	w.goTo("/device/media")
	w.live()
	has(all)
	w.until(`document.querySelector("#figures")?.checkVisibility()`)
	w.mapIs("ready")
}

// TestBehindProxy: all of it works below another path, where a proxy has it.
func TestBehindProxy(t *testing.T) {
	t.Parallel()
	inner, err := url.Parse(serve(t, states()).URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(inner) }}
	mux := http.NewServeMux()
	mux.Handle("/host/disks/", http.StripPrefix("/host/disks", proxy))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections)
	w := open(t, s.URL+"/host/disks", 1200, 900)
	w.goTo("/")
	w.live()
	w.run(chromedp.Click(chromedp.CSS(`#devices a[href$="/media"]`)))
	w.mapIs("ready")
	w.live()
	if got := eval[string](w, "location.pathname"); got != "/host/disks/device/media" {
		t.Errorf("the link leads to %s", got)
	}
	links := eval[[]string](w, "[...document.links].map((a) => a.pathname)")
	if want := []string{"/host/disks/device/media", "/host/disks/", "/host/disks/",
		"/host/disks/metrics"}; !slices.Equal(links, want) {
		t.Errorf("links to %q, want %q", links, want)
	}
	w.run(chromedp.Click(chromedp.CSS(".crumb a")))
	w.until(`document.querySelector("#devices")`)
}

// TestFits: no window is too narrow or too wide, nor is any text too large for it. Colours that the
// system forces leave everything to be seen.
func TestFits(t *testing.T) {
	t.Parallel()
	w := open(t, serve(t, states()).URL, 1200, 900)
	cut := func(what string) {
		t.Helper()
		w.fits()
		for _, s := range eval[[]string](w, `[...document.querySelectorAll(
			"h1, dt, dd, p, td, th, button, a")].filter((e) => e.scrollWidth > e.clientWidth + 1 &&
			e.clientWidth > 1 && !e.closest(".tiles, .unseen") &&
			getComputedStyle(e).display !== "inline").map((e) => e.innerText)`) {
			t.Errorf("%s: this is wider than its place: %q", what, s)
		}
		for _, s := range eval[[]string](w, `[...document.querySelectorAll("td, th, dd, li, p")]
			.filter((e) => e.getBoundingClientRect().right > innerWidth + 1 &&
			e.checkVisibility() && !e.closest(".scroll, .unseen")).map((e) => e.innerText)`) {
			t.Errorf("%s: this is beyond the window's edge: %q", what, s)
		}
	}
	text := func(size int64) {
		t.Helper()
		call(w, cdppage.SetFontSizes, cdppage.SetFontSizesParams{
			FontSizes: &cdppage.FontSizes{Standard: size}})
	}
	for _, path := range []string{"/", "/device/media"} {
		w.goTo(path)
		w.live()
		name := strings.ReplaceAll(path, "/", "-")
		for _, width := range []int64{360, 768, 1400, 2560} {
			w.size(width, 900, 1)
			cut(fmt.Sprintf("%s at %d", path, width))
		}
		for _, width := range []int64{360, 1400} {
			w.size(width, 900, 1)
			text(32) // twice as large as browsers have it
			w.until(`getComputedStyle(document.documentElement).fontSize === "30px"`)
			cut(fmt.Sprintf("%s with large text at %d", path, width))
			// One of the whole page would resize the window, which has the usual text again.
			w.picture(fmt.Sprintf("large-text%s-%d", name, width), chromedp.CaptureScreenshot())
		}
		text(16)
		w.media("screen", "forced-colors", "active", "prefers-color-scheme", "dark")
		w.shot("forced-colors" + name)
		w.media("screen")
	}
}

// TestReconnect: a monitor that ends and comes back is noticed, both times.
func TestReconnect(t *testing.T) {
	t.Parallel()
	h := states()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	start := func(l net.Listener) (stop func()) {
		p := page.Handler(h, "1.2.3")
		s := &http.Server{Handler: p, ReadHeaderTimeout: time.Minute}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = s.Serve(l)
		}()
		return func() {
			p.Close()
			s.Close()
			<-done
		}
	}
	stop := start(l)
	w := open(t, "http://"+addr, 1200, 900)
	w.expect = []string{notOK}
	w.device("media")
	w.live()
	stop()
	w.until(`document.getElementById("live")?.dataset.state === "stale"`)
	if at := eval[string](w, `document.getElementById("live").innerText`); !regexp.MustCompile(
		`^Not connected\. This is how it was at \d\d:\d\d:\d\d$`).MatchString(at) {
		t.Errorf("not in the words of the other times: %q", at)
	}
	// What is known can be looked at; the map says that it is not all.
	w.focusMap()
	w.run(chromedp.KeyEvent("++"))
	w.until(`document.querySelector(".surface-scale").innerText.includes(
		"not up to date: the monitor does not answer")`)
	w.mapIs("coarse")
	w.shot("not-connected")
	h.change("media", func(d *disk) { d.st.Lost = 77 })
	if l, err = net.Listen("tcp", addr); err != nil {
		t.Fatal(err)
	}
	stop = start(l)
	defer func() { stop() }()
	w.live()
	w.until(`document.querySelector(".surface-legend").innerText.includes("lost: 77 blocks")`)
	w.mapIs("ready")
	w.until(`!document.querySelector(".surface-scale").innerText.includes("not up to date")`)
}
