package page

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"ublkremap/internal/control"
)

//go:embed assets templates
var files embed.FS

// Page answers requests. It is to be closed.
type Page struct {
	source  Source
	version string
	build   string // changes with what page.js has to go with
	host    string // name of this host
	look    *template.Template
	assets  map[string]asset
	mux     *http.ServeMux
	now     func() time.Time // the clock, except in tests
	ctx     context.Context
	close   context.CancelFunc
	maps    chan struct{} // for questions about surfaces that are open

	mu       sync.Mutex
	devices  map[string]*device
	listErr  error
	listed   time.Time
	listing  bool
	began    time.Time     // when the last round began
	rounding chan struct{} // closed at the end of the round that is under way; nil: none is
	clients  map[*client]struct{}
	running  bool                 // the goroutine that asks for all clients
	looks    map[string]*rendered // by device, of the last round; "": all
}

// asset is an embedded file.
type asset struct {
	body      []byte
	kind, tag string
}

// kinds are the media types of assets.
var kinds = map[string]string{".css": "text/css; charset=utf-8",
	".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

// Handler returns what answers the requests of browsers. version is that of this program.
func Handler(source Source, version string) *Page {
	p := &Page{source: source, version: version, assets: map[string]asset{},
		mux: http.NewServeMux(), now: time.Now, maps: make(chan struct{}, surfacesAtOnce),
		devices: map[string]*device{}, clients: map[*client]struct{}{},
		looks: map[string]*rendered{}}
	p.ctx, p.close = context.WithCancel(context.Background())
	p.host, _ = os.Hostname()
	// What is embedded is known to be there, and to be well formed.
	words := template.FuncMap{"number": numText}
	p.look = template.Must(template.New("").Funcs(words).ParseFS(files, "templates/*.html"))
	all := sha256.New()
	dir, _ := fs.ReadDir(files, "assets")
	for _, f := range dir {
		body, _ := fs.ReadFile(files, "assets/"+f.Name())
		sum := sha256.Sum256(body)
		all.Write(sum[:])
		p.assets[f.Name()] = asset{body, kinds[path.Ext(f.Name())],
			`"` + hex.EncodeToString(sum[:12]) + `"`}
	}
	p.build = version + "-" + hex.EncodeToString(all.Sum(nil)[:6])
	// A pattern for GET also takes HEAD.
	p.mux.HandleFunc("GET /{$}", p.overview)
	p.mux.HandleFunc("GET /device/{name}", p.device)
	p.mux.HandleFunc("GET /device/{name}/surface", p.surface)
	p.mux.HandleFunc("GET /live", p.live)
	p.mux.HandleFunc("GET /assets/{file}", p.asset)
	return p
}

// Close ends all open pages and questions. Requests that come later get what is known.
func (p *Page) Close() { p.close() }

// policy allows nothing but what comes from here, and no frames around it.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; " +
	"img-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

// ServeHTTP implements http.Handler.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	p.mux.ServeHTTP(w, r)
}

func (p *Page) asset(w http.ResponseWriter, r *http.Request) {
	a, ok := p.assets[r.PathValue("file")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", a.kind)
	w.Header().Set("ETag", a.tag)
	w.Header().Set("Cache-Control", "no-cache") // ask whether it has changed
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.body))
}

// html answers with a template.
func (p *Page) html(w http.ResponseWriter, code int, name string, data any) {
	var b bytes.Buffer
	if err := p.look.ExecuteTemplate(&b, name, data); err != nil {
		http.Error(w, "the page cannot be made: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(code)
	_, _ = w.Write(b.Bytes())
}

func (p *Page) overview(w http.ResponseWriter, r *http.Request) {
	if err := p.fresh(r.Context()); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	p.html(w, http.StatusOK, "overview.html", p.overviewOf())
}

func (p *Page) device(w http.ResponseWriter, r *http.Request) {
	key := r.PathValue("name")
	p.watch(key)
	if err := p.fresh(r.Context()); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	if p.watch(key) {
		// The first look at a device: what only its own page has is asked for now.
		p.rest(r.Context(), key)
	}
	v := p.deviceOf(key)
	if v == nil {
		p.html(w, http.StatusNotFound, "gone.html", p.goneOf(key))
		return
	}
	v.Surface = p.plainSurface(r.Context(), key, v)
	p.html(w, http.StatusOK, "device.html", v)
}

// watch notes that somebody looks at a device's own page. It reports whether what only that has is
// not known yet.
func (p *Page) watch(key string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.devices[key]
	if d == nil {
		return false
	}
	d.watched = p.now()
	return d.latencies == nil && d.st.HasFigures()
}

// rest asks for the histograms of a device, for a first look at it.
func (p *Page) rest(ctx context.Context, key string) {
	p.mu.Lock()
	d := p.devices[key]
	p.mu.Unlock()
	if d == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, roundWait)
	defer cancel()
	p.askLatencies(ctx, key, d)
}

const (
	// surfacesAtOnce is how many servers, or one of them, are asked for surfaces at once.
	surfacesAtOnce = 4
	// surfaceWait is how long a question about a surface waits for others to end.
	surfaceWait = 3 * time.Second
	plainCells  = 64
)

// errBusy says that too many ask for surfaces.
var errBusy = errors.New("too many surfaces are being asked for")

// askSurface asks a server how its blocks look.
func (p *Page) askSurface(ctx context.Context, key string, from, to uint64,
	cells int) (*control.Surface, error) {
	wait, cancel := context.WithTimeout(ctx, surfaceWait)
	defer cancel()
	select {
	case p.maps <- struct{}{}:
		defer func() { <-p.maps }()
	case <-wait.Done():
		return nil, errBusy
	}
	ctx, end := context.WithTimeout(ctx, askTime)
	defer end()
	return p.source.Surface(ctx, key, from, to, cells)
}

// Surface is the answer of /device/NAME/surface: that of the server, and the blocks of its range
// that the scrub has found slow to read.
type Surface struct {
	*control.Surface
	Slow []control.Range `json:"slow"`
}

// surface answers with JSON. The query has from (the first block), to (the block behind the last)
// and cells (how many at most), as GET /v1/surface of a server.
func (p *Page) surface(w http.ResponseWriter, r *http.Request) {
	key := r.PathValue("name")
	q := r.URL.Query()
	from, err := number(q, "from", 0)
	to, toErr := number(q, "to", control.SurfaceEnd)
	cells, cellsErr := number(q, "cells", 1024)
	if err = errors.Join(err, toErr, cellsErr); err == nil &&
		(from >= to || cells < 1 || cells > control.MaxSurface) {
		err = control.ErrInvalid
	}
	if err != nil {
		http.Error(w, "want from < to, and cells of 1 to "+strconv.Itoa(control.MaxSurface),
			http.StatusBadRequest)
		return
	}
	// A device that the list does not have may have come a moment ago.
	p.mu.Lock()
	d := p.devices[key]
	p.mu.Unlock()
	if d == nil && p.fresh(r.Context()) == nil {
		p.mu.Lock()
		d = p.devices[key]
		p.mu.Unlock()
	}
	if d == nil {
		http.NotFound(w, r)
		return
	}
	s, err := p.askSurface(r.Context(), key, from, to, int(cells))
	switch {
	case errors.Is(err, errBusy):
		w.Header().Set("Retry-After", "1")
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	case errors.Is(err, control.ErrInvalid):
		http.Error(w, clean(err.Error()), http.StatusBadRequest)
		return
	case err != nil:
		http.Error(w, clean(err.Error()), http.StatusBadGateway)
		return
	}
	body, err := json.Marshal(Surface{s, p.slowOf(d, s.From, s.To)})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}

// slowOf returns the slow blocks of a range.
func (p *Page) slowOf(d *device, from, to uint64) []control.Range {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := []control.Range{}
	if d.scrub == nil {
		return list
	}
	for _, r := range d.scrub.SlowBlocks {
		if r.Block < to && from < r.Block+r.Count {
			list = append(list, r)
		}
	}
	return list
}

// number reads a number of a query.
func number(q url.Values, name string, missing uint64) (uint64, error) {
	text := strings.TrimSpace(q.Get(name))
	if text == "" {
		return missing, nil
	}
	return strconv.ParseUint(text, 10, 64)
}
