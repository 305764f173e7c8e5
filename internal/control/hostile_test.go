package control

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hang is a time limit that only a hang reaches.
const hang = time.Minute

func dial(t testing.TB, name string) net.Conn {
	t.Helper()
	for deadline := time.Now().Add(hang); ; time.Sleep(time.Millisecond) {
		c, err := net.Dial("unix", SocketPath(name))
		if err == nil {
			t.Cleanup(func() { c.Close() })
			return c
		}
		if !errors.Is(err, unix.EAGAIN) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// blocking is a handler whose moves wait until their context ends or they are released.
type blocking struct {
	fake
	moving  atomic.Int32
	ended   atomic.Int32
	release chan struct{}
}

func (b *blocking) AddRemaps(ctx context.Context, _ []Range) (MoveReply, error) {
	b.moving.Add(1)
	defer b.ended.Add(1)
	select {
	case <-ctx.Done():
		return MoveReply{}, ctx.Err()
	case <-b.release:
		return MoveReply{Blocks: 1}, nil
	}
}

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(hang); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s does not happen", what)
		}
	}
}

// TestFlood: thousands of clients at once all get an answer, and no more handlers run than there
// are places.
func TestFlood(t *testing.T) {
	useTempDir(t)
	var at, most atomic.Int32
	f := &watched{at: &at, most: &most}
	s := serve(t, "disk", f)
	const clients, each = 250, 4
	var wg sync.WaitGroup
	var failed atomic.Int32
	for range clients {
		wg.Go(func() {
			for range each {
				ctx, cancel := context.WithTimeout(context.Background(), hang)
				if _, err := NewClient("disk").Status(ctx); err != nil && failed.Add(1) < 5 {
					t.Error(err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if most.Load() > maxConns {
		t.Errorf("%d handlers at once, at most %d are allowed", most.Load(), maxConns)
	}
	until(t, "the end of all connections", func() bool {
		s.l.mu.Lock()
		defer s.l.mu.Unlock()
		return len(s.l.conns) == 0
	})
}

type watched struct {
	fake
	at, most *atomic.Int32
}

func (w *watched) Status(ctx context.Context) (*Status, error) {
	n := w.at.Add(1)
	defer w.at.Add(-1)
	for {
		m := w.most.Load()
		if n <= m || w.most.CompareAndSwap(m, n) {
			break
		}
	}
	runtime.Gosched()
	return w.fake.Status(ctx)
}

// TestSilentClients: connections that send nothing, or half of something, give their places to
// those that send a request.
func TestSilentClients(t *testing.T) {
	useTempDir(t)
	old := requestTimeout
	requestTimeout = 20 * time.Millisecond
	t.Cleanup(func() { requestTimeout = old })
	serve(t, "disk", &fake{})
	half := []string{
		"", "GET /v1/sta", "GET /v1/status HTTP/1.1\r\nHost: x\r\n",
		"POST /v1/remaps/add HTTP/1.1\r\nHost: x\r\nContent-Length: 400000\r\n\r\n{\"ranges\":[",
		"POST /v1/remaps/add HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"ran",
	}
	for i := range 4 * maxConns {
		if _, err := io.WriteString(dial(t, "disk"), half[i%len(half)]); err != nil &&
			!errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
			t.Fatal(err)
		}
	}
	for range 10 {
		ctx, cancel := context.WithTimeout(context.Background(), hang)
		if _, err := NewClient("disk").Status(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
}

// TestMovesAreLimited: only a limited number of moves wait at once. The others get an error, and
// other requests are answered meanwhile. A client that leaves ends its move.
func TestMovesAreLimited(t *testing.T) {
	useTempDir(t)
	b := &blocking{release: make(chan struct{})}
	serve(t, "disk", b)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	for range maxMoves {
		wg.Go(func() {
			if _, err := NewClient("disk").AddRemaps(ctx,
				[]Range{{Block: 1, Count: 1}}); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	until(t, "the moves", func() bool { return b.moving.Load() == maxMoves })
	if _, err := NewClient("disk").AddRemaps(context.Background(),
		[]Range{{Block: 1, Count: 1}}); !errors.Is(err, ErrBusy) {
		t.Errorf("one move too many: %v", err)
	}
	if _, err := NewClient("disk").Status(context.Background()); err != nil {
		t.Error(err)
	}
	cancel()
	wg.Wait()
	until(t, "the end of the moves", func() bool { return b.ended.Load() == maxMoves })
	close(b.release)
	if r, err := NewClient("disk").AddRemaps(context.Background(),
		[]Range{{Block: 1, Count: 1}}); err != nil || r.Blocks != 1 {
		t.Errorf("after the others: %v, %v", r, err)
	}
}

// endless is a handler with a table of any length.
type endless struct {
	fake
	rows    uint64
	sent    atomic.Uint64
	failure chan struct{}
}

func (e *endless) Remaps(ctx context.Context, f func(Remap) error) error {
	for i := range e.rows {
		err := ctx.Err()
		if err == nil {
			spare := i
			err = f(Remap{Block: 8 * i, Count: 8, Spare: &spare, State: "mapped", Cause: "write",
				Time: "2026-01-02T03:04:05Z"})
		}
		if err != nil {
			if e.failure != nil {
				e.failure <- struct{}{}
			}
			return err
		}
		e.sent.Store(i + 1)
	}
	return nil
}

// TestLongTableInLittleMemory: neither end keeps what it sends or receives.
func TestLongTableInLittleMemory(t *testing.T) {
	useTempDir(t)
	const rows = 60_000 // 8 MB of JSON
	serve(t, "disk", &endless{rows: rows})
	var most uint64
	n := uint64(0)
	err := NewClient("disk").EachRemap(context.Background(), func(r Remap) error {
		if r.Block != 8*n || *r.Spare != n {
			t.Fatalf("row %d: %+v", n, r)
		}
		if n++; n%6000 == 0 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
		}
		return nil
	})
	if err != nil || n != rows {
		t.Fatalf("%d rows, %v", n, err)
	}
	if most > 8<<20 {
		t.Errorf("%d bytes of memory are kept", most)
	}
}

// TestReaderThatDoesNotRead: a client that asks for a long table and does not read it costs one of
// a few places and no memory. It costs nothing once it leaves.
func TestReaderThatDoesNotRead(t *testing.T) {
	useTempDir(t)
	e := &endless{rows: 10_000_000, failure: make(chan struct{}, maxLists)}
	serve(t, "disk", e)
	var conns []net.Conn
	for range maxLists {
		c := dial(t, "disk")
		if _, err := io.WriteString(c, "GET /v1/remaps HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		// The answer has begun, and fills the socket.
		if _, err := io.ReadFull(c, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	until(t, "a full socket", func() bool {
		was := e.sent.Load()
		time.Sleep(10 * time.Millisecond)
		return e.sent.Load() == was
	})
	if n := e.sent.Load(); n > 100_000 {
		t.Errorf("%d rows went to clients that do not read", n)
	}
	if _, err := NewClient("disk").Remaps(context.Background()); !errors.Is(err, ErrBusy) {
		t.Errorf("one table too many: %v", err)
	}
	if _, err := NewClient("disk").Status(context.Background()); err != nil {
		t.Error(err)
	}
	for _, c := range conns {
		c.Close()
	}
	for range conns {
		select {
		case <-e.failure:
		case <-time.After(hang):
			t.Fatal("the server goes on sending to nobody")
		}
	}
}

// TestCutTableIsNotTakenForAll: a table that breaks off is an error, even if it is valid up to
// there.
func TestCutTableIsNotTakenForAll(t *testing.T) {
	useTempDir(t)
	broken := errors.New("broken")
	serve(t, "disk", &fake{remaps: make([]Remap, 1000), fail: broken})
	if _, err := NewClient("disk").Remaps(context.Background()); err == nil {
		t.Error("half a table is taken for a whole one")
	}
}

// ask sends raw bytes and returns the status of the answer, or 0 if there is none.
func ask(t *testing.T, name, request string) int {
	t.Helper()
	c := dial(t, name)
	if err := c.SetDeadline(time.Now().Add(hang)); err != nil {
		t.Fatal(err)
	}
	// The server may answer and close the connection before it has everything.
	_, _ = io.WriteString(c, request)
	_ = c.(*net.UnixConn).CloseWrite() // the rest that the server waits for does not come
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp.StatusCode
}

func post(path, body string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", path,
		len(body), body)
}

func TestRequestsThatMakeNoSense(t *testing.T) {
	useTempDir(t)
	f := &fake{}
	serve(t, "disk", f)
	const add = "/v1/remaps/add"
	many := func(n int) string {
		return `{"ranges":[` + strings.TrimSuffix(strings.Repeat(`{"block":1,"count":1},`, n),
			",") + `]}`
	}
	for _, c := range []struct {
		what, request string
		want          []int // any of these
	}{
		{"nothing", "\r\n\r\n", []int{400, 0}},
		{"binary", "\x00\x01\x02\xff\xfe\r\n\r\n", []int{400}},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", []int{400}},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []int{400, 404, 405, 505}},
		{"HTTP/9", "GET /v1/status HTTP/9.9\r\nHost: x\r\n\r\n", []int{505}},
		{"no host", "GET /v1/status HTTP/1.1\r\n\r\n", []int{400}},
		{"long header", "GET /v1/status HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 64<<10) +
			"\r\n\r\n", []int{431, 0}},
		{"many headers", "GET /v1/status HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: y\r\n",
			16<<10) + "\r\n", []int{431, 0}},
		{"long path", "GET /" + strings.Repeat("x", 64<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n",
			[]int{431, 0}},
		{"two lengths", "POST " + add + " HTTP/1.1\r\nHost: x\r\nContent-Length: " +
			"1\r\nContent-Length: 2\r\n\r\n{}", []int{400}},
		{"negative length", "POST " + add + " HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n{}",
			[]int{400}},
		{"bad chunk", "POST " + add + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: " +
			"chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", []int{400}},
		{"endless chunk", "POST " + add + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: " +
			"chunked\r\n\r\nffffffffffffffff\r\n{}\r\n", []int{400, 0}},
		{"another transfer", "POST " + add + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: " +
			"gzip\r\n\r\n{}", []int{400, 501}},
		{"wrong method", "DELETE /v1/status HTTP/1.1\r\nHost: x\r\n\r\n", []int{405}},
		{"no method", "FROB /v1/stop HTTP/1.1\r\nHost: x\r\n\r\n", []int{405}},
		{"get of an action", "GET /v1/stop HTTP/1.1\r\nHost: x\r\n\r\n", []int{405}},
		{"wrong path", "GET /v1/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
			[]int{301, 307, 404}},
		{"path with NUL", "GET /v1/status%00 HTTP/1.1\r\nHost: x\r\n\r\n", []int{404}},
		{"absolute", "GET http://elsewhere/v1/frob HTTP/1.1\r\nHost: x\r\n\r\n", []int{404}},
		{"connect", "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", []int{404, 405}},
		{"no body", post(add, ""), []int{400}},
		{"null", post(add, "null"), []int{400}},
		{"array", post(add, "[]"), []int{400}},
		{"empty", post(add, "{}"), []int{400}},
		{"no ranges", post(add, `{"ranges":[]}`), []int{400}},
		{"ranges are null", post(add, `{"ranges":null}`), []int{400}},
		{"ranges are one", post(add, `{"ranges":{"block":1,"count":1}}`), []int{400}},
		{"another name", post(add, `{"Ranges":[{"block":1,"count":1}]}`), []int{400}},
		{"one name more", post(add, `{"ranges":[{"block":1,"count":1}],"x":1}`), []int{400}},
		{"one name more within", post(add, `{"ranges":[{"block":1,"count":1,"x":1}]}`), []int{400}},
		{"twice", post(add, `{"ranges":[{"block":1,"count":1}],"ranges":[]}`), []int{400}},
		{"more behind", post(add, many(1)+`{"ranges":[]}`), []int{400}},
		{"no end", post(add, `{"ranges":[{"block":1,"count":1}`), []int{400}},
		{"negative", post(add, `{"ranges":[{"block":-1,"count":1}]}`), []int{400}},
		{"fraction", post(add, `{"ranges":[{"block":1.5,"count":1}]}`), []int{400}},
		{"exponent", post(add, `{"ranges":[{"block":1e3,"count":1}]}`), []int{400}},
		{"too large a number", post(add, `{"ranges":[{"block":18446744073709551616,"count":1}]}`),
			[]int{400}},
		{"endless number", post(add, `{"ranges":[{"block":`+strings.Repeat("9", 100_000)+
			`,"count":1}]}`), []int{400}},
		{"text", post(add, `{"ranges":[{"block":"1","count":1}]}`), []int{400}},
		{"count 0", post(add, `{"ranges":[{"block":1,"count":0}]}`), []int{400}},
		{"no count", post(add, `{"ranges":[{"block":1}]}`), []int{400}},
		{"wraps", post(add, `{"ranges":[{"block":18446744073709551615,"count":1}]}`), []int{400}},
		{"wraps far", post(add, `{"ranges":[{"block":2,"count":18446744073709551615}]}`),
			[]int{400}},
		{"deep", post(add, `{"ranges":`+strings.Repeat("[", 200_000)), []int{400}},
		{"deep and closed", post(add, `{"ranges":`+strings.Repeat("[", 100_000)+strings.Repeat("]",
			100_000)+`}`), []int{400}},
		{"deep objects", post(add, `{"ranges":[`+strings.Repeat(`{"block":`, 50_000)), []int{400}},
		{"too many", post(add, many(maxRanges+1)), []int{400}},
		{"far too many", post(add, many(20_000)), []int{400}},
		{"too long", post(add, `{"ranges":[`+strings.Repeat(" ", maxBody)+
			`{"block":1,"count":1}]}`), []int{400, 0}},
		{"as many as go", post(add, many(maxRanges)), []int{200}},
		{"one", post(add, many(1)), []int{200}},
		{"up to the last number", post(add,
			`{"ranges":[{"block":18446744073709551614,"count":1}]}`), []int{200}},
		{"a body where none is wanted", post("/v1/resume", strings.Repeat("x", 1000)), []int{200}},
		{"head", "HEAD /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n", []int{404}},
	} {
		f.added = nil
		got := ask(t, "disk", c.request)
		ok := false
		for _, w := range c.want {
			ok = ok || w == got
		}
		if !ok {
			t.Errorf("%s: status %d, want %v", c.what, got, c.want)
		}
		if got != http.StatusOK && f.added != nil {
			t.Errorf("%s: it was carried out: %v", c.what, f.added)
		}
	}
	if f.stopped != 0 {
		t.Error("it was stopped")
	}
	if _, err := NewClient("disk").Status(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestPlacesOfFiles: something in the place of the program's files, or of their directory, that is
// not what it should be is refused and left alone.
func TestPlacesOfFiles(t *testing.T) {
	kinds := map[string]func(path string) error{
		"file":      func(p string) error { return os.WriteFile(p, []byte("keep"), 0o600) },
		"directory": func(p string) error { return os.Mkdir(p, 0o700) },
		"link":      func(p string) error { return os.Symlink("target", p) },
		"dangling":  func(p string) error { return os.Symlink("nowhere", p) },
		"fifo":      func(p string) error { return unix.Mkfifo(p, 0o600) },
	}
	for kind, plant := range kinds {
		t.Run(kind, func(t *testing.T) {
			useTempDir(t)
			target := filepath.Join(Dir(), "target")
			if err := os.WriteFile(target, []byte("target"), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{SocketPath("disk"), file("disk", ".lock"),
				RecordPath("disk")} {
				if err := plant(path); err != nil {
					t.Fatal(err)
				}
			}
			before, err := os.Lstat(SocketPath("disk"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Serve("disk", &fake{}); !errors.Is(err, ErrRefused) {
				t.Errorf("socket: %v", err)
			}
			after, err := os.Lstat(SocketPath("disk"))
			if err != nil || !os.SameFile(before, after) {
				t.Errorf("what lay there was replaced: %v", err)
			}
			if kind != "file" {
				if _, err := Own("disk"); !errors.Is(err, ErrRefused) {
					t.Errorf("lock: %v", err)
				}
				if Owned("disk") {
					t.Error("owned by nobody")
				}
			}
			if _, err := ReadRecord("disk"); !errors.Is(err, ErrRecord) ||
				errors.Is(err, ErrRefused) {
				t.Errorf("record: %v", err)
			}
			if list, err := Records(); len(list) != 0 || !errors.Is(err, ErrRecord) {
				t.Errorf("records: %v, %v", list, err)
			}
			if _, err := NewClient("disk").Status(context.Background()); !errors.Is(err,
				ErrNotRunning) {
				t.Errorf("client: %v", err)
			}
			if _, err := os.Lstat(filepath.Join(Dir(), "nowhere")); err == nil {
				t.Error("a dangling link was followed")
			}
			if text, err := os.ReadFile(target); err != nil || string(text) != "target" {
				t.Errorf("the target of the link: %q, %v", text, err)
			}
		})
	}
}

func TestDirectoryOfSomebodyElse(t *testing.T) {
	all := func(t *testing.T, want error) {
		t.Helper()
		_, recordErr := ReadRecord("disk")
		_, recordsErr := Records()
		_, ownErr := Own("disk")
		_, serveErr := Serve("disk", &fake{})
		_, clientErr := NewClient("disk").Status(context.Background())
		for what, err := range map[string]error{
			"make": MakeDir(), "record": recordErr, "records": recordsErr, "own": ownErr,
			"serve": serveErr, "client": clientErr,
		} {
			if !errors.Is(err, want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	t.Run("link", func(t *testing.T) {
		useTempDir(t)
		real := Dir() + ".real"
		if err := os.Rename(Dir(), real); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(real, Dir()); err != nil {
			t.Fatal(err)
		}
		all(t, ErrRefused)
	})
	t.Run("dangling", func(t *testing.T) {
		useTempDir(t)
		if err := errors.Join(os.Remove(Dir()), os.Symlink("nowhere", Dir())); err != nil {
			t.Fatal(err)
		}
		all(t, ErrRefused)
	})
	t.Run("file", func(t *testing.T) {
		useTempDir(t)
		if err := errors.Join(os.Remove(Dir()), os.WriteFile(Dir(), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		all(t, ErrRefused)
	})
	t.Run("writable by others", func(t *testing.T) {
		for _, mode := range []os.FileMode{0o777, 0o770, 0o702, 0o777 | os.ModeSticky} {
			useTempDir(t)
			if err := os.Chmod(Dir(), mode); err != nil {
				t.Fatal(err)
			}
			all(t, ErrRefused)
		}
	})
	t.Run("another owner", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("needs root")
		}
		useTempDir(t)
		if err := os.Chown(Dir(), 12345, 0); err != nil {
			t.Fatal(err)
		}
		all(t, ErrRefused)
	})
	t.Run("readable by others", func(t *testing.T) {
		useTempDir(t)
		if err := os.Chmod(Dir(), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := MakeDir(); err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(Dir()); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%v, %v", st.Mode(), err)
		}
	})
}

// TestModesUnderAnyUmask: nobody else can read the program's files.
func TestModesUnderAnyUmask(t *testing.T) {
	for _, mask := range []int{0, 0o077, 0o777} {
		if mask == 0o777 && os.Geteuid() != 0 {
			continue // not even the owner can then
		}
		func() {
			old := syscall.Umask(mask)
			defer syscall.Umask(old)
			useTempDir(t)
			o, err := Own("disk")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = o.Release() }()
			serve(t, "disk", &fake{})
			if err := (&Record{Name: "disk", UUID: "u",
				Device: "/dev/ublkb0"}).Write(); err != nil {
				t.Fatal(err)
			}
			entries, err := os.ReadDir(Dir())
			if err != nil || len(entries) != 3 {
				t.Fatalf("%v, %v", entries, err)
			}
			for _, e := range entries {
				if st, err := e.Info(); err != nil || st.Mode().Perm()&0o077 != 0 {
					t.Errorf("umask %03o: %s: %v, %v", mask, e.Name(), st.Mode(), err)
				}
			}
		}()
	}
}

// answers starts a server that gives everybody the same answer.
func answers(t testing.TB, name, text string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: SocketPath(name), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = http.ReadRequest(bufio.NewReader(c))
				_, _ = io.WriteString(c, text)
				c.Close()
			}()
		}
	}()
}

// clientErrors are all errors that a client may return, besides those of the context.
var clientErrors = []error{ErrNotRunning, ErrAnswer, ErrInvalid, ErrRefused, ErrNotFound, ErrFailed,
	ErrBusy, context.DeadlineExceeded}

func known(err error) bool {
	for _, k := range clientErrors {
		if errors.Is(err, k) {
			return true
		}
	}
	return err == nil
}

func TestHostileServer(t *testing.T) {
	useTempDir(t)
	const ok = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	for i, c := range []struct {
		what, text string
		want       error
	}{
		{"no HTTP", "hello\r\n\r\n", ErrNotRunning},
		{"nothing", "", ErrNotRunning},
		{"no JSON", ok + "\r\nhello", ErrAnswer},
		{"another type", ok + "\r\n\"text\"", ErrAnswer},
		{"breaks off", ok + "\r\n{\"id\":1", ErrAnswer},
		{"breaks off and was announced", ok + "Content-Length: 100\r\n\r\n{\"id\":1",
			ErrNotRunning},
		{"number out of range", ok + "\r\n{\"id\":99999999999999999999}", ErrAnswer},
		{"too long", ok + "\r\n{\"name\":\"" + strings.Repeat("x", 2<<20), ErrAnswer},
		{"deep", ok + "\r\n{\"name\":" + strings.Repeat("[", 500_000), ErrAnswer},
		{"header too long", ok + "X: " + strings.Repeat("x", 1<<20) + "\r\n\r\n{}", ErrNotRunning},
		{"packed", ok + "Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x00", ErrAnswer},
		{"elsewhere", "HTTP/1.1 302 Found\r\nLocation: http://example.com/\r\n\r\n", ErrFailed},
		{"later", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 1000), ErrNotRunning},
		{"an error without a text", "HTTP/1.1 409 Conflict\r\n\r\n", ErrRefused},
		{"an error with too long a text", "HTTP/1.1 409 Conflict\r\n\r\n{\"error\":\"" +
			strings.Repeat("x", 100_000) + "\"}", ErrRefused},
		{"an error without an end", "HTTP/1.1 500 No\r\n\r\n" + strings.Repeat("x", 2<<20),
			ErrNotRunning},
		{"another status", "HTTP/1.1 299 Odd\r\n\r\n{}", ErrFailed},
	} {
		name := fmt.Sprintf("disk%d", i)
		answers(t, name, c.text)
		ctx, cancel := context.WithTimeout(context.Background(), hang)
		_, err := NewClient(name).Status(ctx)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: status: %v, want %v", c.what, err, c.want)
		}
		if err != nil && len(err.Error()) > 2*maxError {
			t.Errorf("%s: an error of %d bytes", c.what, len(err.Error()))
		}
		if _, err := NewClient(name).Remaps(ctx); !known(err) || err == nil {
			t.Errorf("%s: remaps: %v", c.what, err)
		}
		cancel()
	}
}

// TestSilentServer: the client leaves a server that accepts and sends nothing, when its caller says
// so.
func TestSilentServer(t *testing.T) {
	useTempDir(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: SocketPath("disk"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := NewClient("disk").Status(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// TestServerOfSomebodyElse: the client sends no request to a socket that another user listens on.
func TestServerOfSomebodyElse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	useTempDir(t)
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	// The kernel tells the client which user listens.
	if _, _, errno := syscall.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 12345,
		^uintptr(0)); errno != 0 {
		t.Fatal(errno)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		_, _, _ = syscall.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 0, ^uintptr(0))
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: SocketPath("disk")})
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, _, errno := syscall.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 12345,
		^uintptr(0)); errno != 0 {
		t.Fatal(errno)
	}
	listenErr := unix.Listen(fd, 8)
	if _, _, errno := syscall.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 0,
		^uintptr(0)); errno != 0 || listenErr != nil {
		t.Fatal(errno, listenErr)
	}
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	if _, err := NewClient("disk").Status(ctx); !errors.Is(err, ErrRefused) {
		t.Error(err)
	}
}

func TestDecodeRecord(t *testing.T) {
	good := `{"name":"a","uuid":"u","id":3,"device":"/dev/ublkb3","pid":1,` +
		`"block_size":512,"blocks":7}`
	if _, err := decodeRecord([]byte(good)); err != nil {
		t.Error(err)
	}
	for _, text := range []string{
		"", "null", "[]", "{}", "7", good + "x", strings.Replace(good, `"a"`, `""`, 1),
		strings.Replace(good, `"u"`, `""`, 1),
		strings.Replace(good, `"id":3`, `"id":-1`, 1), strings.Replace(good, `"id":3`,
			`"id":1048576,"x":0`, 1),
		strings.Replace(good, "ublkb3", "ublkb4", 1), strings.Replace(good, "/dev/ublkb3",
			"/dev/sda", 1),
		strings.Replace(good, `"pid":1`, `"pid":-1`, 1), strings.Replace(good, `"blocks":7`,
			`"blocks":18446744073709551615`, 1),
		strings.Replace(good, `:512`, `:-512`, 1), strings.Repeat("[", 60_000),
		`{"name":"` + strings.Repeat("x", maxRecord) + `"}`,
	} {
		if _, err := decodeRecord([]byte(text)); !errors.Is(err, ErrRecord) {
			t.Errorf("%.60q: %v", text, err)
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"name":"a","uuid":"u","id":3,"device":"/dev/ublkb3","spares":["/dev/sdb"],` +
		`"pid":1,"started":"2026-01-02T03:04:05Z","block_size":512,"blocks":7}`))
	f.Add([]byte(`{"name":"../../etc","uuid":"u","device":"/dev/ublkb0"}`))
	f.Add([]byte(`{"name":"\u001b[2J","uuid":"\ufffd","device":"/dev/ublkb0","error":"\n"}`))
	f.Add([]byte("{"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil {
			if !errors.Is(err, ErrRecord) {
				t.Fatal(err)
			}
			return
		}
		if r.Device != fmt.Sprintf("/dev/ublkb%d", r.ID) ||
			filepath.Dir(RecordPath(r.Name)) != filepath.Clean(Dir()) {
			t.Fatalf("%+v", r)
		}
		if n := int64(r.Blocks) * int64(r.BlockSize); n < 0 {
			t.Fatalf("%d bytes", n)
		}
	})
}

// seeds are requests for FuzzServer, and bodies for FuzzRanges.
var seeds = []string{
	`{"ranges":[{"block":1,"count":1},{"block":18446744073709551615,"count":2}]}`, `{"ranges":[[[[`,
	`{"ranges":[]}`, `{"ranges":[{"block":1e99}]}`, "null", "",
}

func FuzzRanges(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ranges, err := readRanges(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, ErrInvalid) || ranges != nil {
				t.Fatal(ranges, err)
			}
			return
		}
		if len(ranges) == 0 || len(ranges) > maxRanges {
			t.Fatalf("%d ranges", len(ranges))
		}
		for _, r := range ranges {
			if r.Count == 0 || r.Block+r.Count < r.Block {
				t.Fatalf("%+v", r)
			}
		}
	})
}

// strict is a handler that checks what reaches it.
type strict struct {
	fake
	t *testing.T
}

func (s *strict) AddRemaps(_ context.Context, r []Range) (MoveReply, error) {
	if len(r) == 0 || len(r) > maxRanges {
		s.t.Errorf("%d ranges", len(r))
	}
	return MoveReply{}, nil
}

func (s *strict) Surface(_ context.Context, from, to uint64, cells int) (*Surface, error) {
	if from >= to || cells < 1 || cells > MaxSurface {
		s.t.Errorf("surface of %d to %d in %d cells", from, to, cells)
	}
	return &Surface{}, nil
}

func (s *strict) HealFree(_ context.Context, rows []Remap) (FillReply, error) {
	if len(rows) == 0 || len(rows) > maxHealed {
		s.t.Errorf("heal of %d rows", len(rows))
	}
	return FillReply{}, nil
}

func (s *strict) Fill(_ context.Context, block uint64, data []byte) (FillReply, error) {
	if len(data) == 0 || len(data) > MaxFill {
		s.t.Errorf("fill of block %d with %d bytes", block, len(data))
	}
	return FillReply{}, nil
}

func (s *strict) MarkRemaps(ctx context.Context, r []Range) (MarkReply, error) {
	_, err := s.AddRemaps(ctx, r)
	return MarkReply{}, err
}

func (s *strict) RescueRemaps(ctx context.Context, r []Range) (RescueReply, error) {
	_, err := s.AddRemaps(ctx, r)
	return RescueReply{}, err
}

func (s *strict) TakeBackRemaps(ctx context.Context, r []Range) (MoveReply, error) {
	return s.RemoveRemaps(ctx, r)
}

func (s *strict) RemoveRemaps(ctx context.Context, r []Range) (MoveReply, error) {
	return s.AddRemaps(ctx, r)
}

// pipeListener accepts one end of a pipe, once.
type pipeListener struct {
	c    chan net.Conn
	done chan struct{}
}

func (p *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-p.c:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipeListener) Close() error   { return nil }
func (p *pipeListener) Addr() net.Addr { return &net.UnixAddr{} }

// FuzzServer sends any bytes to a server. Any answer is allowed. The server must not panic, hang,
// or pass to the handler what the handler must not get.
func FuzzServer(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(post("/v1/remaps/add", s)))
		f.Add([]byte(post("/v1/remaps/remove", s)))
	}
	f.Add([]byte("GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/remaps HTTP/1.1\r\nHost: " +
		"x\r\n\r\n"))
	f.Add([]byte("GET /v1/surface?from=1&to=9&cells=4096 HTTP/1.1\r\nHost: x\r\n\r\n"))
	f.Add([]byte("POST /v1/stop HTTP/1.0\r\n\r\n"))
	f.Add([]byte("POST /v1/remaps/add HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: " +
		"chunked\r\nTrailer: X\r\n\r\n3;x=y\r\n{\"r\r\n0\r\nX: y\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l := &pipeListener{make(chan net.Conn, 1), make(chan struct{})}
		s := newHTTP(&strict{t: t})
		served := make(chan error, 1)
		go func() { served <- s.Serve(l) }()
		here, there := net.Pipe()
		l.c <- there
		var all sync.WaitGroup
		all.Go(func() { _, _ = io.Copy(io.Discard, io.LimitReader(here, 1<<20)); here.Close() })
		_ = here.SetDeadline(time.Now().Add(2 * time.Second))
		_, _ = here.Write(b)
		// The rest that the server waits for does not come.
		time.AfterFunc(time.Millisecond, func() { here.Close() })
		all.Wait()
		close(l.done)
		if err := <-served; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		s.Close()
	})
}

// FuzzClient answers a client with any bytes.
func FuzzClient(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 " +
		"OK\r\n\r\n{\"id\":7,\"scrub\":{\"last_finished\":\"2026-01-02T03:04:05Z\"}}"))
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\n[{\"block\":1,\"count\":2,\"spare\":null}]"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[{}\r\n0\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 500 No\r\n\r\n{\"error\":\"\\u001b[2J\"}"))
	f.Add([]byte("HTTP/1.1 301 There\r\nLocation: http://x/\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := NewClient("disk")
		c.http.Transport.(*http.Transport).DialContext = func(context.Context, string,
			string) (net.Conn, error) {
			here, there := net.Pipe()
			go func() {
				_, _ = http.ReadRequest(bufio.NewReader(there))
				_, _ = there.Write(b)
				there.Close()
			}()
			return here, nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), hang)
		defer cancel()
		if _, err := c.Status(ctx); !known(err) || ctx.Err() != nil {
			t.Fatal(err)
		}
		if _, err := c.Remaps(ctx); !known(err) || ctx.Err() != nil {
			t.Fatal(err)
		}
		if _, err := c.AddRemaps(ctx, []Range{{1, 1}}); !known(err) || ctx.Err() != nil {
			t.Fatal(err)
		}
	})
}
