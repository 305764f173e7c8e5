package page_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ublkremap/internal/control"
	"ublkremap/internal/page"
	"ublkremap/internal/page/pagetest"
)

var update = flag.Bool("update", false, "write the files of testdata anew")

// serveHost serves the page of a host, and closes it at the end.
func serveHost(t *testing.T, h page.Source) *httptest.Server {
	t.Helper()
	p := page.Handler(h, "1.2.3")
	s := httptest.NewServer(p)
	t.Cleanup(func() {
		p.Close()
		s.Close()
	})
	return s
}

func get(t *testing.T, url string) (int, http.Header, string) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, r.Header, string(body)
}

// varying is what differs from run to run.
var varying = regexp.MustCompile(
	`\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?Z?)?|\d\d:\d\d:\d\d|` +
		`data-(build|host)="[^"]*"| · [^<]*`)

// TestGolden: the list, and the pages of devices in all states, are as they were looked at.
func TestGolden(t *testing.T) {
	pages := map[string]string{"all": "/"}
	for _, name := range []string{"archive", "films", "photos", "scratch", "mail", "gone", "full",
		"returning", "flapping"} {
		pages[name] = "/device/" + name
	}
	for name, path := range pages {
		file := filepath.Join("testdata", name+".html")
		got, want := look(t, path), ""
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		want = string(text)
		// On a machine that is busy, the first round may be over before all have answered.
		for range 9 {
			if got == want {
				break
			}
			got = look(t, path)
		}
		if got != want {
			t.Errorf("%s is not as in %s (see -update)%s", path, file, firstDifference(got, want))
		}
	}
}

// look loads a page of a host that nobody has looked at before.
func look(t *testing.T, path string) string {
	t.Helper()
	code, _, body := get(t, serveHost(t, pagetest.New(nil)).URL+path)
	if code != http.StatusOK {
		t.Errorf("%s: %d: %s", path, code, body)
	}
	host, _ := os.Hostname()
	return varying.ReplaceAllString(strings.ReplaceAll(body, "<bdi>"+host+"</bdi>",
		"<bdi>HOST</bdi>"), "…")
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("; line %d:\n%s\nwant\n%s", i+1, g[i], w[i])
		}
	}
	return fmt.Sprintf("; %d lines, want %d", len(g), len(w))
}

// TestWorstFirst: what needs somebody comes first, with the command to type.
func TestWorstFirst(t *testing.T) {
	s := serveHost(t, pagetest.New(nil))
	_, _, body := get(t, s.URL)
	list := body[strings.Index(body, "<tbody"):]
	last := -1
	for _, name := range []string{"gone", "mail", "silent", "scratch", "photos", "full",
		"returning", "mirrors", "films", "flapping", "slow", "scrubbed", "archive"} {
		at := strings.Index(list, "<bdi>"+name+"</bdi>")
		if at <= last {
			t.Errorf("%s is at %d, the one before at %d", name, at, last)
		}
		last = at
	}
	for _, command := range []string{"ublk-remap start mail", "ublk-remap resume scratch",
		"ublk-remap files photos", "ublk-remap files films", "ublk-remap health scrubbed"} {
		if !strings.Contains(list, "<bdi>"+command+"</bdi></code>") {
			t.Errorf("no command %q", command)
		}
	}
}

// TestLargeNumbers: the list writes numbers as the rest of the page does.
func TestLargeNumbers(t *testing.T) {
	h := &pagetest.Host{}
	d := pagetest.Well(time.Now(), "a", 1<<40)
	d.Status.Pending, d.Status.Lost = 200000, 4711
	h.Add(d)
	_, _, body := get(t, serveHost(t, h).URL)
	for _, want := range []string{">200,000</td>", ">4,711</td>"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s", want)
		}
	}
}

// TestHeaders: each answer forbids what the page does not need, and scripts and styles are in files
// of their own only.
func TestHeaders(t *testing.T) {
	s := serveHost(t, pagetest.New(nil))
	for _, path := range []string{"/", "/device/photos", "/device/nothing", "/nothing",
		"/assets/page.js", "/assets/nothing", "/device/photos/surface?cells=0"} {
		_, h, body := get(t, s.URL+path)
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff",
			"Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY",
			"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; " +
				"connect-src 'self'; img-src 'self'; frame-ancestors 'none'; base-uri 'none'; " +
				"form-action 'none'"} {
			if got := h.Get(name); got != want {
				t.Errorf("%s: %s: %q", path, name, got)
			}
		}
		if strings.HasPrefix(path, "/assets") {
			continue
		}
		if inline := regexp.MustCompile(`(?i)<style|<script(?:[^>]*src=)?[^>]*>[^<]|\sstyle=|` +
			`<[^>]*\son\w+=|javascript:`).FindString(strings.ReplaceAll(body,
			"&lt;script&gt;", "")); inline != "" {
			t.Errorf("%s: %q is within the page", path, inline)
		}
	}
}

// TestReadOnly: nothing but GET and HEAD is answered, and HEAD has no body.
func TestReadOnly(t *testing.T) {
	s := serveHost(t, pagetest.New(nil))
	for _, path := range []string{"/", "/device/photos", "/device/photos/surface", "/live",
		"/assets/style.css"} {
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete,
			http.MethodPatch, http.MethodOptions, http.MethodHead} {
			r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			want := http.StatusMethodNotAllowed
			if method == http.MethodHead {
				want = http.StatusOK
			}
			if resp.StatusCode != want || method == http.MethodHead && len(body) > 0 {
				t.Errorf("%s %s: %d, %d bytes", method, path, resp.StatusCode, len(body))
			}
		}
	}
}

// TestHostile: names and paths of any bytes are shown as text, and lead to the device's own page.
func TestHostile(t *testing.T) {
	h := &pagetest.Host{}
	names := []string{pagetest.Hostile, "a\x00b", "\u202egnp.exe", "a b", "a/b", "?x=1#y",
		"{{.}}", "%41", strings.Repeat("n", 4096), "</title><img src=x onerror=alert(1)>",
		"\xff\xfe", "javascript:alert(1)", "' onmouseover='x", "\u2028\ufeff\u200d"}
	for i, n := range names {
		d := pagetest.Well(time.Now(), n, 1<<40)
		d.Status.Device = fmt.Sprintf("/dev/ublkb%d", i)
		d.Status.State, d.Status.Reason, d.Status.Action = control.StateDegraded, n, n
		d.Events[0].Text, d.Events[0].What, d.Events[0].Errno = n, n, n
		d.Status.Metadata.Mirrors[0] = control.Mirror{Location: n, State: n}
		d.Status.Spare.Devices[0].Device = n
		d.Status.Breaker.Reason, d.Status.Scrub.State = n, n
		h.Add(d)
	}
	s := serveHost(t, h)
	check := func(what, body string) {
		for _, bad := range []string{"<script>", "<img", "onerror=alert(1)>", "\u202e", "\x00",
			"\x1b", "\xff", "\u2028", "\u200d", "\ufeff", strings.Repeat("n", 1000),
			`href="javascript`, `' onmouseover='x`} {
			// A path of a link is as long as its name.
			text := regexp.MustCompile(`(href|data-device|data-live)="[^"]*"`).ReplaceAllString(
				body, "")
			if strings.Contains(bad, "javascript") {
				text = body
			}
			if i := strings.Index(text, bad); i >= 0 {
				t.Errorf("%s has %q: %q", what, bad, text[max(i-60, 0):min(i+60, len(text))])
			}
		}
	}
	_, _, all := get(t, s.URL)
	check("the list", all)
	links := regexp.MustCompile(`<a href="(device/[^"]*)"`).FindAllStringSubmatch(all, -1)
	if len(links) != len(names) {
		t.Fatalf("%d links, want %d", len(links), len(names))
	}
	for _, l := range links {
		path := strings.ReplaceAll(strings.ReplaceAll(l[1], "&amp;", "&"), "&#39;", "'")
		code, _, body := get(t, s.URL+"/"+path)
		if code != http.StatusOK || !strings.Contains(body, `id="surface"`) {
			t.Errorf("%.80s: %d", path, code)
		}
		check(path, body)
	}
	_, _, body := get(t, s.URL+"/device/"+url.PathEscape(pagetest.Hostile+"x"))
	check("a device that is not there", body)
}

// figures are what the page of a device has of them, if a server answers.
const figures = `<dl class="figures">`

// TestDead: a device whose server dies is shown as dead. Of the figures that it had a sentence says
// when they were so, and nothing is shown that has nothing to tell. One that hangs keeps nothing of
// the others.
func TestDead(t *testing.T) {
	h := pagetest.New(nil)
	s := serveHost(t, h)
	get(t, s.URL+"/device/archive")
	h.Kill("archive")
	hangs := make(chan struct{})
	defer close(hangs)
	h.Change("backup", func(d *pagetest.Device) { d.Hangs = hangs })
	for {
		_, _, body := get(t, s.URL+"/device/archive")
		if strings.Contains(body, "ublk-remap start archive") {
			dead(t, s.URL)
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	for { // until it counts as one that does not answer
		_, _, body := get(t, s.URL+"/device/backup")
		if strings.Contains(body, "has not answered for") &&
			strings.Contains(body, "unreachable") && !strings.Contains(body, figures) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// dead looks at the pages of a device that has died.
func dead(t *testing.T, url string) {
	t.Helper()
	_, _, one := get(t, url+"/device/archive")
	_, _, all := get(t, url)
	for _, body := range []string{one, all} {
		if !strings.Contains(body, "262,144 of 262,144 spare units were free, 0 blocks were "+
			"pending and 0 lost.") {
			t.Errorf("it does not say what was known last: %s", body)
		}
	}
	for _, want := range []string{`<section id="latency" class="chart" hidden>`,
		`<section id="health" hidden>`, `<section id="metadata" hidden>`,
		"There is no map now: no server runs."} {
		if !strings.Contains(one, want) {
			t.Errorf("it lacks %q", want)
		}
	}
	if strings.Contains(one, figures) {
		t.Errorf("it has figures")
	}
}

// TestNumbersAgain: the last events of a server that crashed are not on the disk, and the next one
// uses their numbers again. Its events are shown, and not those of before.
func TestNumbersAgain(t *testing.T) {
	h := &pagetest.Host{}
	d := pagetest.Well(time.Now(), "a", 1<<40)
	d.Events = []page.Event{{Number: 1, Time: time.Now(), What: "start", Text: "kept"},
		{Number: 2, Time: time.Now(), What: "start", Text: "not on the disk"},
		{Number: 3, Time: time.Now(), What: "start", Text: "neither"}}
	h.Add(d)
	s := serveHost(t, h)
	const path = "/device/a"
	for body := ""; !strings.Contains(body, "neither"); {
		_, _, body = get(t, s.URL+path)
	}
	h.Change("a", func(d *pagetest.Device) {
		d.Status.Metadata.Sequence++ // in a container, its process ID is the same
		d.Events = append(d.Events[:1:1],
			page.Event{Number: 2, Time: time.Now(), What: "recovery", Text: "the new server"})
	})
	for {
		_, _, body := get(t, s.URL+path)
		if strings.Contains(body, "kept") && strings.Contains(body, "the new server") &&
			!strings.Contains(body, "not on the disk") && !strings.Contains(body, "neither") {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestListFails: if the list fails, the page says so, and shows what it knows.
func TestListFails(t *testing.T) {
	h := pagetest.New(nil)
	h.FailLists(pagetest.ErrList)
	s := serveHost(t, h)
	_, _, body := get(t, s.URL)
	if !strings.Contains(body, "cannot all be listed: <bdi>"+pagetest.ErrList.Error()) ||
		!strings.Contains(body, "<bdi>archive</bdi>") {
		t.Errorf("%s", body)
	}
}

// TestNone: a host without devices, and a device that is not there.
func TestNone(t *testing.T) {
	s := serveHost(t, &pagetest.Host{})
	if _, _, body := get(t, s.URL); !strings.Contains(body, "No device runs here") {
		t.Errorf("%s", body)
	}
	code, _, body := get(t, s.URL+"/device/x")
	if code != http.StatusNotFound || !strings.Contains(body, "is not here") {
		t.Errorf("%d: %s", code, body)
	}
	if code, _, _ := get(t, s.URL+"/device/x/surface"); code != http.StatusNotFound {
		t.Errorf("its surface: %d", code)
	}
}

// TestSurface: the answer is the server's, with the slow blocks of the range.
func TestSurface(t *testing.T) {
	s := serveHost(t, pagetest.New(nil))
	get(t, s.URL) // the slow blocks are asked for with the rest
	var got page.Surface
	for {
		code, _, body := get(t, s.URL+"/device/scrubbed/surface?from=0&to=2097152&cells=16")
		if code != http.StatusOK {
			t.Fatalf("%d: %s", code, body)
		}
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatal(err)
		}
		if len(got.Slow) > 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if got.PerCell != 131072 || got.To != 2097152 || len(got.Slow) != 1 ||
		got.Slow[0] != (control.Range{Block: 1 << 20, Count: 24}) {
		t.Errorf("%+v %+v", got.Surface, got.Slow)
	}
	for query, want := range map[string]int{"?cells=0": 400, "?cells=4097": 400,
		"?from=9&to=9": 400,
		"?from=x":      400, "?from=-1": 400, "?from=99999999999999": 400, "": 200} {
		if code, _, body := get(t, s.URL+"/device/photos/surface"+query); code != want {
			t.Errorf("%s: %d, want %d: %s", query, code, want, body)
		}
	}
}

// TestAssets: files are there, are not sent again if they are known, and nothing else is there.
func TestAssets(t *testing.T) {
	s := serveHost(t, pagetest.New(nil))
	for name, kind := range map[string]string{"style.css": "text/css", "page.js": "text/javascript",
		"surface.js": "text/javascript", "favicon.svg": "image/svg+xml"} {
		code, h, body := get(t, s.URL+"/assets/"+name)
		if code != http.StatusOK || !strings.HasPrefix(h.Get("Content-Type"), kind) || body == "" {
			t.Errorf("%s: %d %s", name, code, h.Get("Content-Type"))
		}
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/assets/"+name, nil)
		r.Header.Set("If-None-Match", h.Get("ETag"))
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotModified {
			t.Errorf("%s, again: %d", name, resp.StatusCode)
		}
	}
	for _, path := range []string{"/assets/", "/assets/../page.go", "/assets/x", "/templates/row",
		"/device/", "/device/a/b", "/v1/status"} {
		if code, _, _ := get(t, s.URL+path); code != http.StatusNotFound {
			t.Errorf("%s: %d", path, code)
		}
	}
}

// stream is an open /live.
type stream struct {
	body io.Closer
	r    *bufio.Scanner
}

func open(t *testing.T, url string) *stream {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK ||
		resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	t.Cleanup(func() { resp.Body.Close() })
	s := &stream{resp.Body, bufio.NewScanner(resp.Body)}
	s.r.Buffer(nil, 4<<20)
	return s
}

// next returns the next message.
func (s *stream) next(t *testing.T) *page.Message {
	t.Helper()
	for s.r.Scan() {
		if data, ok := strings.CutPrefix(s.r.Text(), "data: "); ok {
			m := &page.Message{}
			if err := json.Unmarshal([]byte(data), m); err != nil {
				t.Fatal(err)
			}
			return m
		}
	}
	t.Fatalf("the stream has ended: %v", s.r.Err())
	return nil
}

// TestLive: the first message has all, later ones what has changed, in their order; a device that
// dies is shown as dead; one that comes or goes is in the order.
func TestLive(t *testing.T) {
	h := pagetest.New(nil)
	s := serveHost(t, h)
	_, _, body := get(t, s.URL)
	all := open(t, s.URL+"/live")
	first := all.next(t)
	if len(first.Order) != len(pagetest.States(time.Now())) ||
		len(first.Parts) != len(first.Order)+1 {
		t.Fatalf("%d in order, %d parts", len(first.Order), len(first.Parts))
	}
	for _, id := range first.Order {
		if !strings.Contains(body, `<tbody id="`+id+`"`) ||
			!strings.HasPrefix(first.Parts[id], `<tbody id="`+id+`"`) {
			t.Errorf("part %s is not an element of the page", id)
		}
	}
	if !strings.Contains(body, `data-build="`+first.Build+`"`) {
		t.Errorf("build %s", first.Build)
	}
	h.Kill("archive")
	h.Remove("films")
	h.Add(&pagetest.Device{Status: pagetest.Well(time.Now(), "new", 1<<40).Status})
	for isDead, isThere, some := false, false, false; ; {
		m := all.next(t)
		dead, come, fewer := false, false, len(m.Parts) < len(m.Order)
		for _, html := range m.Parts {
			dead = dead || strings.Contains(html, "ublk-remap start archive")
			come = come || strings.Contains(html, "<bdi>new</bdi>")
		}
		isDead, isThere, some = isDead || dead, isThere || come, some || fewer
		if isDead && isThere && some && len(m.Order) == len(first.Order) {
			break
		}
	}
}

// TestLiveDevice: a page of one device gets its parts and its status, and learns when it is gone.
func TestLiveDevice(t *testing.T) {
	h := pagetest.New(nil)
	s := serveHost(t, h)
	one := open(t, s.URL+"/live?device=photos")
	m := one.next(t)
	if m.Status == nil || m.Status.Lost != 16 || m.Order != nil {
		t.Fatalf("%+v", m)
	}
	_, _, body := get(t, s.URL+"/device/photos")
	for id, html := range m.Parts {
		if !strings.Contains(html, `id="`+id+`"`) || !strings.Contains(body, `id="`+id+`"`) {
			t.Errorf("part %s: %.200s", id, html)
		}
	}
	h.Remove("photos")
	for m.Status != nil {
		m = one.next(t)
	}
	if !strings.Contains(m.Parts["head"], "is not here") {
		t.Errorf("%v", m.Parts)
	}
}

// TestNobodyLooks: without an open page nobody is asked, and a client that has gone costs nothing.
func TestNobodyLooks(t *testing.T) {
	h := pagetest.New(nil)
	s := serveHost(t, h)
	all := open(t, s.URL+"/live")
	all.next(t)
	all.next(t)
	if h.Lists.Load() < 2 {
		t.Errorf("%d lists", h.Lists.Load())
	}
	all.body.Close()
	// The end of a connection is seen within moments. After that the count stays.
	for last := int64(-1); ; {
		time.Sleep(2500 * time.Millisecond)
		n := h.Lists.Load() + h.Statuses.Load()
		if n == last {
			break
		}
		last = n
	}
}

// TestLimits: so many pages are open at once and no more; all of them together, and others that
// load pages, ask each server at most once a second.
func TestLimits(t *testing.T) {
	h := pagetest.New(nil)
	s := serveHost(t, h)
	began := time.Now()
	for range 32 {
		open(t, s.URL+"/live").next(t)
	}
	r, err := http.Get(s.URL + "/live")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusServiceUnavailable || r.Header.Get("Retry-After") == "" {
		t.Errorf("one more: %d", r.StatusCode)
	}
	for range 20 {
		get(t, s.URL)
	}
	most := int64(time.Since(began)/time.Second) + 2
	if n := h.Lists.Load(); n > most {
		t.Errorf("%d lists within %s", n, time.Since(began))
	}
}

// TestSlowClient: a client that reads nothing does not keep others from what is new, and is
// dropped or gone at the end.
func TestSlowClient(t *testing.T) {
	h := pagetest.NewMany(64)
	p := page.Handler(h, "")
	s := httptest.NewServer(p)
	defer s.Close()
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	all := open(t, s.URL+"/live")
	for range 3 {
		all.next(t)
	}
	p.Close()
	if all.r.Scan(); all.r.Err() != nil {
		t.Errorf("the end: %v", all.r.Err())
	}
}

// hanging is a source whose list never comes.
type hanging struct {
	*pagetest.Host
	lists atomic.Int64
	end   chan struct{}
}

func (h *hanging) List(context.Context) ([]page.Listed, error) {
	h.lists.Add(1)
	<-h.end
	return nil, errors.New("the end")
}

// TestListHangs: a page comes also if the list does not, which is asked for once only.
func TestListHangs(t *testing.T) {
	h := &hanging{Host: &pagetest.Host{}, end: make(chan struct{})}
	defer close(h.end)
	s := serveHost(t, h)
	for range 3 {
		if code, _, _ := get(t, s.URL); code != http.StatusOK {
			t.Errorf("%d", code)
		}
	}
	if n := h.lists.Load(); n != 1 {
		t.Errorf("%d lists", n)
	}
}

// TestObserve: what a scrape has asked for is in the history, also without an open page.
func TestObserve(t *testing.T) {
	h := &pagetest.Host{}
	d := pagetest.Well(time.Now(), "a", 1<<40)
	h.Add(d)
	p := page.Handler(h, "")
	defer p.Close()
	w := httptest.NewRecorder()
	st := d.Status
	p.Observe([]*control.Status{&st}, nil)
	p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/device/a", nil))
	if w.Code != http.StatusOK {
		t.Errorf("%d", w.Code)
	}
	p.Observe(nil, nil)
	w = httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/device/a", nil))
	if w.Code != http.StatusNotFound {
		t.Errorf("after it has gone: %d", w.Code)
	}
}

// TestMany: 64 devices are one page of a size that a phone loads.
func TestMany(t *testing.T) {
	s := serveHost(t, pagetest.NewMany(64))
	_, _, body := get(t, s.URL)
	if n := strings.Count(body, "<tbody"); n != 64 || len(body) > 256<<10 {
		t.Errorf("%d devices, %d bytes", n, len(body))
	}
	ids := regexp.MustCompile(` id="([^"]+)"`).FindAllStringSubmatch(body, -1)
	var seen []string
	for _, id := range ids {
		if slices.Contains(seen, id[1]) {
			t.Errorf("two elements have the id %s", id[1])
		}
		seen = append(seen, id[1])
	}
}
