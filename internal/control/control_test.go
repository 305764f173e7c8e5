package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

type fake struct {
	retest   RetestRequest
	status   Status
	remaps   []Remap
	healed   []Remap
	added    []Range
	removed  []Range
	stays    MoveReply // of RemoveRemaps, if it is set
	fail     error
	stopped  int
	left     int
	tokens   []string
	asked    func(force bool) // called by a stop, before it begins
	scrubbed ScrubRequest
	given    chan error // stops that were given up
}

func (f *fake) Status(context.Context) (*Status, error) { return &f.status, f.fail }
func (f *fake) Remaps(_ context.Context, each func(Remap) error) error {
	for _, r := range f.remaps {
		if err := each(r); err != nil {
			return err
		}
	}
	return f.fail
}
func (f *fake) Snapshot(_ context.Context, cursor uint64) (*Snapshot, error) {
	return &Snapshot{Superblock: []byte{1, 2}, Epoch: 3, Sequence: 1<<64 - 1, Checksum: 5,
		Entries: []byte{0, 255}, Next: cursor + 1, Done: true}, f.fail
}
func (f *fake) Scrub(_ context.Context, r ScrubRequest) (*ScrubStatus, error) {
	f.scrubbed = r
	return &ScrubStatus{Scrub: Scrub{State: "running", Total: 9}, Waits: string(r.Do)}, f.fail
}
func (f *fake) Resume(context.Context) error { return f.fail }
func (f *fake) Stop(_ context.Context, force bool, begin func() error) error {
	if f.asked != nil {
		f.asked(force)
	}
	if f.fail == nil {
		if err := begin(); err != nil {
			f.given <- err
			return err
		}
	}
	f.stopped++
	return f.fail
}

func (f *fake) Leave(_ context.Context, token string) error {
	f.left++
	f.tokens = append(f.tokens, "leave "+token)
	return f.fail
}

func (f *fake) Stay(_ context.Context, token string) error {
	f.tokens = append(f.tokens, "stay "+token)
	return f.fail
}
func (f *fake) Drill(_ context.Context, do string) (*DrillReply, error) {
	return &DrillReply{Steps: []DrillStep{{Name: do, TookUS: 7}}, Commits: 3}, f.fail
}

func (f *fake) Events(_ context.Context, from uint64) (*Events, error) {
	return &Events{First: from, Next: from + 2, Events: []byte{1, 2}}, f.fail
}

func (f *fake) StartRetest(_ context.Context, r RetestRequest) (Retest, error) {
	f.retest = r
	return Retest{ID: 1, Step: "find"}, f.fail
}

func (f *fake) Retest(context.Context) (Retest, error) {
	return Retest{ID: 1, Ended: true, Home: 5}, f.fail
}

func (f *fake) StopRetest(context.Context) (Retest, error) {
	return Retest{ID: 1, Step: "write"}, f.fail
}

func (f *fake) Latencies(context.Context) (*Latencies, error) {
	return &Latencies{TimedOneIn: 4, Requests: []RequestLatency{{Operation: "read", Path: "home",
		Histogram: Histogram{SumNS: 9, Buckets: []Bucket{{Index: 3, Count: 2}}}}}}, f.fail
}

func (f *fake) AddRemaps(_ context.Context, r []Range) (MoveReply, error) {
	f.added = r
	return MoveReply{Blocks: 7}, f.fail
}
func (f *fake) Fill(_ context.Context, block uint64, data []byte) (FillReply, error) {
	return FillReply{Outcomes: fmt.Sprint(block, " ", string(data))}, f.fail
}

func (f *fake) HealFree(_ context.Context, rows []Remap) (FillReply, error) {
	f.healed = rows
	return FillReply{Outcomes: "DC", Reason: "why"}, f.fail
}

func (f *fake) MarkRemaps(_ context.Context, r []Range) (MarkReply, error) {
	f.added = r
	return MarkReply{Marked: 5, Known: 2, Spared: 1}, f.fail
}

func (f *fake) RescueRemaps(_ context.Context, r []Range) (RescueReply, error) {
	f.added = r
	return RescueReply{Moved: 4, Stay: 1, Why: "full"}, f.fail
}

func (f *fake) TakeBackRemaps(ctx context.Context, r []Range) (MoveReply, error) {
	reply, err := f.RemoveRemaps(ctx, r)
	reply.Old = reply.Blocks
	return reply, err
}

func (f *fake) RemoveRemaps(_ context.Context, r []Range) (MoveReply, error) {
	f.removed = r
	if f.stays != (MoveReply{}) {
		return f.stays, f.stays.Unmoved(r[0])
	}
	return MoveReply{Blocks: 3}, f.fail
}

// TestMovePiece: blocks that stay where they are end a move, but not one that goes piece by piece.
// Other errors end both.
func TestMovePiece(t *testing.T) {
	f := &fake{stays: MoveReply{Blocks: 2, Failed: 4, NoCopy: 1}}
	useTempDir(t)
	serve(t, "disk", f)
	c, ctx := NewClient("disk"), context.Background()
	g := Range{Block: 5, Count: 7}
	if r, err := c.MovePiece(ctx, MoveRemove, g); err != nil || r != f.stays ||
		!slices.Equal(f.removed, []Range{g}) {
		t.Errorf("%+v, %v, %v", r, err, f.removed)
	}
	if _, err := c.RemoveRemaps(ctx, []Range{g}); !errors.Is(err, ErrRefused) ||
		!strings.Contains(err.Error(), "blocks 5+7: 1 of them have no copy") {
		t.Errorf("whole: %v", err)
	}
	f.stays.NoCopy = 0
	if _, err := c.RemoveRemaps(ctx, []Range{g}); !errors.Is(err, ErrFailed) ||
		!strings.Contains(err.Error(), "4 blocks could not be copied") {
		t.Errorf("whole: %v", err)
	}
	f.stays, f.fail = MoveReply{}, ErrRefused
	for _, verb := range []string{MoveAdd, MoveRemove, MoveTakeBack} {
		if _, err := c.MovePiece(ctx, verb, g); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", verb, err)
		}
	}
}

func useTempDir(t *testing.T) {
	t.Helper()
	// The path is short, because a socket's path has at most 107 bytes.
	dir, err := os.MkdirTemp("", "ctl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv(DirEnv, filepath.Join(dir, "run"))
	if err := MakeDir(); err != nil {
		t.Fatal(err)
	}
}

func serve(t *testing.T, name string, h Handler) *Server {
	t.Helper()
	s, err := Serve(name, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestClientAndServer(t *testing.T) {
	useTempDir(t)
	spare := uint64(16)
	f := &fake{
		status: Status{Device: "/dev/ublkb3", ID: 3, State: StateLive,
			Spare: Spare{Total: 9, Devices: []SpareDevice{{"/dev/sdb", 9}}}},
		remaps: []Remap{{Block: 8, Count: 2, Spare: &spare, State: "mapped", Cause: "write",
			Time: "2026-01-02T03:04:05Z"}, {Block: 99, Count: 1, State: "lost"}},
	}
	serve(t, "disk", f)
	c, ctx := NewClient("disk"), context.Background()

	st, err := c.Status(ctx)
	if err != nil || !reflect.DeepEqual(*st, f.status) {
		t.Errorf("status: %+v, %v", st, err)
	}
	list, err := c.Remaps(ctx)
	if err != nil || !reflect.DeepEqual(list, f.remaps) {
		t.Errorf("remaps: %+v, %v", list, err)
	}
	want := []Range{{Block: 5, Count: 3}, {Block: 1 << 40, Count: 1}}
	if r, err := c.AddRemaps(ctx, want); err != nil || r.Blocks != 7 || !reflect.DeepEqual(f.added,
		want) {
		t.Errorf("add: %v, %v, %v", r, err, f.added)
	}
	if r, err := c.RemoveRemaps(ctx, want); err != nil || r.Blocks != 3 ||
		!reflect.DeepEqual(f.removed, want) {
		t.Errorf("remove: %v, %v, %v", r, err, f.removed)
	}
	if r, err := c.MarkRemaps(ctx, want[:1]); err != nil || r != (MarkReply{5, 2, 1}) ||
		!slices.Equal(f.added, want[:1]) {
		t.Errorf("%+v, %v, %v", r, err, f.added)
	}
	if r, err := c.RescueRemaps(ctx, want); err != nil || r != (RescueReply{4, 1, "full"}) ||
		!slices.Equal(f.added, want) {
		t.Errorf("%+v, %v, %v", r, err, f.added)
	}
	if r, err := c.TakeBackRemaps(ctx, want[:1]); err != nil || r.Old != 3 ||
		!reflect.DeepEqual(f.removed, want[:1]) {
		t.Errorf("take back: %v, %v, %v", r, err, f.removed)
	}
	if r, err := c.Fill(ctx, 1<<63, []byte("data")); err != nil ||
		r.Outcomes != "9223372036854775808 data" {
		t.Errorf("fill: %v, %v", r, err)
	}
	place := uint64(7)
	rows := []Remap{{Block: 3, Count: 1, State: "lost"}, {Block: 4, Count: 1, State: "pending",
		Spare: &place, Time: "2026-01-02T03:04:05Z"}}
	if r, err := c.HealFree(ctx, rows); err != nil || r.Outcomes != "DC" || r.Reason != "why" ||
		!reflect.DeepEqual(f.healed, rows) {
		t.Errorf("heal: %+v %v, it got %+v", r, err, f.healed)
	}
	for _, rows := range [][]Remap{nil, make([]Remap, maxHealed+1)} {
		if _, err := c.HealFree(ctx, rows); !errors.Is(err, ErrInvalid) {
			t.Errorf("heal of %d rows: %v", len(rows), err)
		}
	}
	for _, data := range [][]byte{nil, make([]byte, MaxFill+1), make([]byte, 8*MaxFill)} {
		if _, err := c.Fill(ctx, 1, data); !errors.Is(err, ErrInvalid) {
			t.Errorf("fill with %d bytes: %v", len(data), err)
		}
	}
	if d, err := c.Drill(ctx, DrillHeal); err != nil || d.Commits != 3 || len(d.Steps) != 1 ||
		d.Steps[0] != (DrillStep{DrillHeal, 7}) {
		t.Errorf("drill: %+v: %v", d, err)
	}
	if e, err := c.Events(ctx, 1<<63); err != nil || e.First != 1<<63 || e.Next != 1<<63+2 ||
		len(e.Events) != 2 {
		t.Errorf("events: %+v: %v", e, err)
	}
	if snap, err := c.Snapshot(ctx, 1<<63); err != nil || snap.Next != 1<<63+1 ||
		snap.Sequence != 1<<64-1 || !snap.Done || string(snap.Entries) != "\x00\xff" {
		t.Errorf("%+v, %v", snap, err)
	}
	if err := c.Resume(ctx); err != nil {
		t.Error(err)
	}
	if err := c.Stay(ctx, "OTHER"); err != nil {
		t.Error(err)
	}
	if err := c.Leave(ctx, "CLAIM7"); err != nil || f.left != 1 || !reflect.DeepEqual(f.tokens,
		[]string{"stay OTHER", "leave CLAIM7"}) {
		t.Errorf("leave: %v, called %d times: %q", err, f.left, f.tokens)
	}
	if err := c.Stop(ctx, false); err != nil || f.stopped != 1 {
		t.Error(err, f.stopped)
	}
}

func TestErrorsCrossTheSocket(t *testing.T) {
	useTempDir(t)
	f := &fake{}
	serve(t, "disk", f)
	c, ctx := NewClient("disk"), context.Background()
	for _, s := range []error{ErrNotRunning, ErrInvalid, ErrRefused, ErrNotFound, ErrFailed,
		errors.New("something else")} {
		f.fail = fmt.Errorf("block 7: %w: because", s)
		want := s
		if s.Error() == "something else" {
			want = ErrFailed
		}
		for name, err := range map[string]error{
			"resume": c.Resume(ctx),
			"stop":   c.Stop(ctx, false),
			"leave":  c.Leave(ctx, "X"),
			"stay":   c.Stay(ctx, "X"),
			"status": func() error { _, err := c.Status(ctx); return err }(),
			"remaps": func() error { _, err := c.Remaps(ctx); return err }(),
		} {
			if !errors.Is(err, want) || err.Error() != f.fail.Error() {
				t.Errorf("%s: %v is not %v", name, err, want)
			}
		}
	}
	f.fail = nil
	if _, err := c.AddRemaps(ctx, nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("no ranges: %v", err)
	}
	if _, err := c.AddRemaps(ctx, make([]Range, maxRanges+1)); !errors.Is(err, ErrInvalid) {
		t.Errorf("too many ranges: %v", err)
	}
	// A server may have a client that does not know its limit.
	for range 50 {
		var r MoveReply
		if err := c.call(ctx, askTimeout, http.MethodPost, "/v1/remaps/add",
			MoveRequest{make([]Range, maxRanges+1)}, &r); !errors.Is(err, ErrInvalid) {
			t.Errorf("too many ranges, sent: %v", err)
		}
	}
}

func TestServerBoundsWhatItTakes(t *testing.T) {
	useTempDir(t)
	serve(t, "disk", &fake{})
	c := NewClient("disk")
	for body, want := range map[string]int{
		`{"ranges":[{"block":1,"count":1}]}`:       http.StatusOK,
		`{"ranges":[{"block":1,"count":1}],"x":1}`: http.StatusBadRequest,
		`{"ranges":`:                          http.StatusBadRequest,
		`{"ranges":[{"block":-1,"count":1}]}`: http.StatusBadRequest,
		`{"ranges":[` + strings.Repeat(" ", maxBody) +
			`{"block":1,"count":1}]}`: http.StatusBadRequest,
	} {
		resp, err := c.http.Post("http://x/v1/remaps/add", "application/json",
			strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%.40q: %d, want %d", body, resp.StatusCode, want)
		}
	}
	for path, want := range map[string]int{"/v1/stop": http.StatusMethodNotAllowed,
		"/v2": http.StatusNotFound} {
		resp, err := c.http.Get("http://x" + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("GET %s: %d, want %d", path, resp.StatusCode, want)
		}
	}
}

func TestNobodyElseGetsIn(t *testing.T) {
	useTempDir(t)
	s := serve(t, "disk", &fake{})
	st, err := os.Stat(SocketPath("disk"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", st.Mode(), err)
	}
	if st, err = os.Stat(Dir()); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", st.Mode(), err)
	}
	// The server checks the credentials of a client that gets past the modes.
	if os.Geteuid() == 0 {
		t.Skip("root is always let in")
	}
	s.l.uid = -1
	conn, err := net.Dial("unix", SocketPath("disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes", n)
	}
}

func TestNoServer(t *testing.T) {
	useTempDir(t)
	if _, err := NewClient("disk").Status(context.Background()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("no socket: %v", err)
	}
	// A socket that a dead server left behind.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: SocketPath("disk")})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := NewClient("disk").Status(context.Background()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("dead socket: %v", err)
	}
	serve(t, "disk", &fake{})
	if _, err := NewClient("disk").Status(context.Background()); err != nil {
		t.Errorf("replaced socket: %v", err)
	}
}

func TestServerDiesOverTheRequest(t *testing.T) {
	useTempDir(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: SocketPath("disk"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	answers := []string{"", "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"device\":"}
	go func() {
		for i := 0; ; i++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			// The connection is closed in the middle of the answer or before it, with the request
			// read or not.
			if i%4 < 2 {
				_, _ = c.Read(make([]byte, 4096))
			}
			_, _ = c.Write([]byte(answers[i%len(answers)]))
			c.Close()
		}
	}()
	for range 100 {
		if _, err := NewClient("disk").Status(context.Background()); !errors.Is(err,
			ErrNotRunning) {
			t.Fatal(err)
		}
	}
}

func TestRecord(t *testing.T) {
	useTempDir(t)
	if _, err := ReadRecord("a"); !errors.Is(err, ErrNotRunning) {
		t.Errorf("missing: %v", err)
	}
	a := &Record{Name: "a", UUID: "u-a", ID: 0, Device: "/dev/ublkb0", Backing: "/dev/sda",
		Spares: []string{"/dev/sdb"}, PID: 12,
		Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Queues: 2, Depth: 64, MaxIO: 1 << 19,
		BlockSize: 512, Blocks: 99, ZeroCopy: true, Version: "v"}
	b := &Record{Name: "b", UUID: "u-b", ID: 4, Device: "/dev/ublkb4"}
	for _, r := range []*Record{b, a} {
		if err := r.Write(); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ReadRecord("a")
	if err != nil || !reflect.DeepEqual(got, a) {
		t.Errorf("%+v, %v", got, err)
	}
	for name, text := range map[string]string{"c": "{", "d": `{"name":"a","uuid":"x"}`,
		"e": strings.Repeat(" ", maxRecord+1)} {
		if err := os.WriteFile(RecordPath(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadRecord(name); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: %v", name, err)
		}
	}
	all, err := Records()
	if !errors.Is(err, ErrRecord) || len(all) != 2 || all[0].Name != "a" || all[1].Name != "b" {
		t.Errorf("%v, %v", all, err)
	}
	if err := a.Remove(); err != nil {
		t.Fatal(err)
	}
	if err := a.Remove(); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(Dir(), ".record-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestOwnWhileOthersLook: a process that checks whether a server lives does not keep one from
// starting.
func TestOwnWhileOthersLook(t *testing.T) {
	useTempDir(t)
	o, err := Own("disk") // so that there is something to look at
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Release(); err != nil {
		t.Fatal(err)
	}
	var quit atomic.Bool
	var lookers sync.WaitGroup
	for range 4 {
		lookers.Go(func() {
			for !quit.Load() {
				Owned("disk")
			}
		})
	}
	for range 5000 {
		o, err := Own("disk")
		if err != nil {
			t.Error(err)
			break
		}
		if err := o.Release(); err != nil {
			t.Error(err)
		}
	}
	quit.Store(true)
	lookers.Wait()
}

func TestOwn(t *testing.T) {
	useTempDir(t)
	if Owned("disk") {
		t.Error("owned by nobody")
	}
	o, err := Own("disk")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Own("disk"); !errors.Is(err, ErrOwned) || !Owned("disk") {
		t.Errorf("second owner: %v", err)
	}
	if err := o.Release(); err != nil || Owned("disk") {
		t.Error(err, "still owned")
	}
}

func TestNamesStayInTheDirectory(t *testing.T) {
	useTempDir(t)
	for _, name := range []string{"../x", "/etc/x", "a/../../b"} {
		if d := filepath.Dir(RecordPath(name)); d != Dir() {
			t.Errorf("%s leads to %s", name, d)
		}
	}
	if _, err := os.Stat(filepath.Join(Dir(), "..", "x.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
