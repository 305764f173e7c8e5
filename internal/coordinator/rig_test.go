package coordinator

import (
	"fmt"
	"testing"
	"time"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// rig is a Coordinator over a Committer that does what the test says, and a driver that records
// what it is asked for.
type rig struct {
	*Coordinator
	t   *testing.T
	com *fakeCommitter
	now int64

	ios         []IO // that have not ended
	calls       []string
	alerts      []remap.Alert
	flushFailed []int32
	notDurable  []error
	scrubs      []ScrubRead     // that have not ended
	told        metadata.Ticket // up to which one tickets have ended, where answerAll is used
	graces      []uint64
	content     map[int64][]byte
}

// memory is a device that keeps what is written.
type memory []byte

func (m memory) ReadAt(p []byte, off int64) (int, error)  { return copy(p, m[off:]), nil }
func (m memory) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }
func (m memory) Sync() error                              { return nil }
func (m memory) Size() int64                              { return int64(len(m)) }

// newRig makes a set with a spare device, and a Coordinator for it.
func newRig(t *testing.T, p metadata.RetryLimits) *rig {
	t.Helper()
	return newRigWith(t, p, nil)
}

// newRigWith is newRig with a flight recorder, if events is not nil.
func newRigWith(t *testing.T, p metadata.RetryLimits, events *Events) *rig {
	t.Helper()
	plan, err := metadata.Plan(metadata.PlanParams{BackingSize: 10 << 20, SpareDeviceSize: 9 << 20,
		BlockSize: 512, SpareBytes: 40 * metadata.UnitSize, Name: "t"})
	if err != nil {
		t.Fatal(err)
	}
	var devices []metadata.Device
	for _, d := range plan.Devices() {
		devices = append(devices, make(memory, d.Size))
	}
	if err := metadata.Create(devices, plan, nil); err != nil {
		t.Fatal(err)
	}
	img, err := metadata.Load(devices)
	if err != nil {
		t.Fatal(err)
	}
	restored, err := remap.Restore(img.Layout(), img.Replay)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, com: &fakeCommitter{done: map[metadata.OpID]error{}}, now: int64(time.Hour),
		content: map[int64][]byte{}}
	r.Coordinator, err = New(Config{
		Image: img, Shared: remap.NewShared(restored.Geometry, restored.Map),
		Allocator: restored.Allocator, Queues: 1, Depth: 1, Retry: p,
		Names:  []string{"/dev/a", "/dev/b"},
		Buffer: metadata.AlignedBytes(2 * metadata.UnitSize), Events: events,
		Wrap: func(*metadata.Committer) Committer { return r.com },
	}, r)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) Now() int64                       { return r.now }
func (r *rig) WallClock() uint32                { return 1_700_000_000 }
func (r *rig) Missing(uint8) string             { return "" }
func (r *rig) Alert(a remap.Alert)              { r.alerts = append(r.alerts, a) }
func (r *rig) FlushFailed(_ uint8, errno int32) { r.flushFailed = append(r.flushFailed, errno) }
func (r *rig) NotDurable(err error)             { r.notDurable = append(r.notDurable, err) }
func (r *rig) ReadForScrub(s ScrubRead)         { r.scrubs = append(r.scrubs, s) }
func (r *rig) sleep(d time.Duration)            { r.now += int64(d); r.Tick() }
func (r *rig) after(ns int64) (d time.Duration) { return time.Duration(ns - r.now) }

// Send notes which grace periods begin.
func (r *rig) Send(_ uint16, m *remap.Message) {
	if m.Kind == remap.MsgGrace {
		r.graces = append(r.graces, m.Generation)
	}
}

func (r *rig) Issue(io *IO) {
	r.ios = append(r.ios, *io)
	name := [...]string{"read", "write", "flush"}[io.Kind]
	if io.Kind == Flush {
		r.calls = append(r.calls, fmt.Sprintf("%s %d", name, io.Device))
	} else {
		r.calls = append(r.calls, fmt.Sprintf("%s %d @%d+%d", name, io.Device, io.Offset,
			len(io.Data)))
	}
}

// answer ends the IO that was issued first.
func (r *rig) answer(res int32) {
	r.t.Helper()
	if len(r.ios) == 0 {
		r.t.Fatal("nothing is under way")
	}
	io := r.ios[0]
	r.ios = r.ios[1:]
	r.Done(io.ID, res)
}

// fakeCommitter is a Committer that does as a test says.
type fakeCommitter struct {
	calls     []string
	next      metadata.Ticket
	ops       []metadata.Op
	results   []metadata.Result
	done      map[metadata.OpID]error
	busy      bool
	backedOff bool
	status    metadata.Status
	refuse    error
	scrub     metadata.Scrub
}

func (c *fakeCommitter) ask(what string) (metadata.Ticket, error) {
	c.calls = append(c.calls, what)
	if c.refuse != nil {
		return 0, c.refuse
	}
	c.next++
	return c.next, nil
}

func (c *fakeCommitter) Open(uint32) (metadata.Ticket, error)             { return c.ask("open") }
func (c *fakeCommitter) Commit([]metadata.Entry) (metadata.Ticket, error) { return c.ask("commit") }
func (c *fakeCommitter) Resume([]metadata.Entry) (metadata.Ticket, error) { return c.ask("resume") }
func (c *fakeCommitter) Checkpoint() (metadata.Ticket,
	error) {
	return c.ask("checkpoint")
}

func (c *fakeCommitter) Ops() (ops []metadata.Op) {
	ops, c.ops = c.ops, nil
	return ops
}

func (c *fakeCommitter) Results() (results []metadata.Result) {
	results, c.results = c.results, nil
	return results
}

func (c *fakeCommitter) Done(id metadata.OpID, err error) { c.done[id] = err }
func (c *fakeCommitter) Idle() bool                       { return !c.busy }
func (c *fakeCommitter) BackedOff() bool                  { return c.backedOff }
func (c *fakeCommitter) RetryNow()                        { c.calls = append(c.calls, "try again") }
func (c *fakeCommitter) Status() metadata.Status          { return c.status }

func (c *fakeCommitter) Verify(bool) (metadata.Ticket, int, bool) { return 0, 0, false }

func (c *fakeCommitter) SetScrub(s metadata.Scrub) { c.scrub = s }

func (c *fakeCommitter) AppendMirrors(dst []metadata.MirrorStatus) []metadata.MirrorStatus {
	return dst
}

func (c *fakeCommitter) Snapshot(uint64) (metadata.Snapshot, error) {
	return metadata.Snapshot{}, nil
}
