package page

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"ublkremap/internal/page"
)

var update = flag.Bool("update", false, "write the pictures in testdata anew")

// patience is how long a page may take to come to a state. It only ends tests that hang.
var patience = flag.Duration("patience", time.Minute, "how long to wait for a page at most")

// shots is where pictures are kept.
var shots = filepath.Join("..", "..", "dist", "page")

// theBrowser is one for all tests; each has a context of its own in it, as a private window.
var theBrowser struct {
	once sync.Once
	ctx  context.Context
	err  error
	end  []func()
}

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	for _, end := range theBrowser.end {
		end()
	}
	os.Exit(code)
}

// fontsConf has letters come from one family of fonts, whatever else is installed.
const fontsConf = `<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>
<dir>/usr/share/fonts/truetype/dejavu</dir><cachedir>%s</cachedir>
<match target="pattern"><edit name="family" mode="append"><string>DejaVu Sans</string></edit>
</match>
</fontconfig>`

func startBrowser() (context.Context, []func(), error) {
	program, err := exec.LookPath("chromium")
	if err != nil {
		return nil, nil, err
	}
	if _, err := os.Stat("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"); err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "ublk-remap-page")
	if err != nil {
		return nil, nil, err
	}
	end := []func(){func() { os.RemoveAll(dir) }}
	conf := filepath.Join(dir, "fonts.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, fontsConf, dir), 0o600); err != nil {
		return nil, end, err
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(program), chromedp.UserDataDir(filepath.Join(dir, "profile")),
		chromedp.Env("FONTCONFIG_FILE="+conf, "TZ=UTC", "LANG=C.UTF-8", "LC_ALL=C.UTF-8"),
		chromedp.Flag("font-render-hinting", "none"), chromedp.Flag("disable-lcd-text", true),
		chromedp.Flag("force-color-profile", "srgb"), chromedp.Flag("hide-scrollbars", true),
		chromedp.WSURLReadTimeout(*patience), chromedp.DisableGPU)
	if os.Geteuid() == 0 {
		opts = append(opts, chromedp.NoSandbox) // it refuses to have one as root
	}
	alloc, cancel := chromedp.NewExecAllocator(context.Background(), opts...)
	end = append([]func(){cancel}, end...)
	// Messages of the protocol that this chromedp does not know yet are no error.
	quiet := func(string, ...any) {}
	ctx, cancel := chromedp.NewContext(alloc, chromedp.WithErrorf(quiet))
	end = append([]func(){cancel}, end...)
	return ctx, end, chromedp.Do(ctx)
}

// tab is a private window.
type tab struct {
	t   testing.TB
	ctx context.Context
	url string // of the page's server

	mu     sync.Mutex
	faults []string
	// Messages that contain one of these are expected.
	expect []string
}

// serve serves a page about a host.
func serve(t testing.TB, h page.Source) *httptest.Server {
	t.Helper()
	p := page.Handler(h, "1.2.3")
	s := httptest.NewServer(p)
	t.Cleanup(func() {
		p.Close()
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// open opens a window of a size. It ends with the test, which fails if anything went wrong in it.
func open(t testing.TB, url string, width, height int64) *tab {
	t.Helper()
	b := &theBrowser
	b.once.Do(func() { b.ctx, b.end, b.err = startBrowser() })
	switch _, noDebian := exec.LookPath("apt-get"); {
	case b.err == nil:
	case noDebian != nil && errors.Is(b.err, exec.ErrNotFound):
		t.Skipf("this machine has no chromium, and no apt-get to install it: %v", b.err)
	default:
		t.Fatalf("the browser does not start: %v; scripts/deps installs it, and its fonts", b.err)
	}
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	w := &tab{t: t, url: url}
	if err := chromedp.Listen(ctx, w.listen); err != nil {
		t.Fatal(err)
	}
	w.ctx, cancel = context.WithTimeout(ctx, 3**patience)
	t.Cleanup(cancel)
	call(w, log.Enable, cdp.Empty{})
	w.size(width, height, 1)
	t.Cleanup(w.faultless)
	return w
}

// call sends a command of the protocol.
func call[P, R any](w *tab, c cdp.Command[P, R], params P) R {
	w.t.Helper()
	r, err := chromedp.Call(w.ctx, c, params)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// size makes the window so large, in CSS pixels of so many pixels of the screen.
func (w *tab) size(width, height int64, ratio float64) {
	w.t.Helper()
	call(w, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: width, Height: height, DeviceScaleFactor: ratio})
}

// listen notes what goes wrong in the page.
func (w *tab) listen(ev any) {
	text := ""
	switch e := ev.(type) {
	case *runtime.EventExceptionThrown:
		text = "exception: " + e.ExceptionDetails.Text
		if x := e.ExceptionDetails.Exception; x != nil {
			text += " " + x.Description
		}
	case *runtime.EventConsoleAPICalled:
		for _, a := range e.Args {
			text += " " + string(a.Value)
		}
		text = fmt.Sprintf("console.%s:%s", e.Type, text)
	case *log.EventEntryAdded:
		text = fmt.Sprintf("%s (%s): %s %s", e.Entry.Level, e.Entry.Source, e.Entry.Text,
			e.Entry.URL)
	}
	if text == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, text)
}

func (w *tab) faultless() {
	w.mu.Lock()
	defer w.mu.Unlock()
next:
	for _, f := range w.faults {
		for _, e := range w.expect {
			if strings.Contains(f, e) {
				continue next
			}
		}
		w.t.Errorf("in the browser: %s", f)
	}
}

func (w *tab) run(actions ...chromedp.Action[chromedp.Void]) {
	w.t.Helper()
	if err := chromedp.Do(w.ctx, actions...); err != nil {
		w.t.Fatal(err)
	}
}

// goTo loads a page.
func (w *tab) goTo(path string) {
	w.t.Helper()
	w.run(chromedp.Navigate(w.url + path))
}

// device loads the page of a device and waits until its map is there.
func (w *tab) device(path string) {
	w.t.Helper()
	w.goTo("/device/" + path)
	w.mapIs("ready")
}

// live waits until the page is kept up to date.
func (w *tab) live() {
	w.t.Helper()
	w.until(`document.getElementById("live")?.dataset.state === "live"`)
}

// mapIs waits until the map is in a state.
func (w *tab) mapIs(state string) {
	w.t.Helper()
	w.until(fmt.Sprintf(`document.querySelector("figure.surface")?.dataset.state === %q`, state))
}

// eval returns what an expression of JavaScript is.
func eval[T any](w *tab, js string) T {
	w.t.Helper()
	await := func(p *runtime.EvaluateParams) { is := true; p.AwaitPromise = &is }
	v, err := chromedp.Run(w.ctx, chromedp.Evaluate[T](js, await))
	if err != nil {
		w.t.Fatalf("%v: %s", err, js)
	}
	return v
}

// until waits until an expression is true.
func (w *tab) until(js string) {
	w.t.Helper()
	end := time.Now().Add(*patience)
	for !eval[bool](w, "Boolean("+js+")") {
		if time.Now().After(end) {
			w.shot("failed-" + strings.ReplaceAll(w.t.Name(), "/", "-"))
			w.t.Fatalf("this never came true: %s\n%s", js, eval[string](w,
				"(document.querySelector('figure.surface') ?? document.body).innerText"))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// shot keeps a picture of the whole page.
func (w *tab) shot(name string) []byte {
	w.t.Helper()
	return w.picture(name, chromedp.FullScreenshot(100))
}

// shotOf keeps a picture of an element.
func (w *tab) shotOf(name, selector string) []byte {
	w.t.Helper()
	return w.picture(name, chromedp.Screenshot(chromedp.CSS(selector)))
}

func (w *tab) picture(name string, take chromedp.Action[[]byte]) []byte {
	w.t.Helper()
	png, err := chromedp.Run(w.ctx, take)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := os.MkdirAll(shots, 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(shots, name+".png"), png, 0o644); err != nil {
		w.t.Fatal(err)
	}
	return png
}

// media sets how the page is to be shown: "screen" or "print", and pairs of a feature of the media
// and its value.
func (w *tab) media(kind string, features ...string) {
	w.t.Helper()
	p := emulation.SetEmulatedMediaParams{Media: kind}
	for i := 0; i < len(features); i += 2 {
		p.Features = append(p.Features, &emulation.MediaFeature{Name: features[i],
			Value: features[i+1]})
	}
	call(w, emulation.SetEmulatedMedia, p)
}
