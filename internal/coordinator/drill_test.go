package coordinator

import (
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// drillRig is a rig whose disks hold what is written to them.
type drillRig struct {
	*rig
	disks    [2]map[int64]byte
	fail     func(n int, io *IO) int32 // result of the n-th IO, if it is not 0
	outcomes func(n int) metadata.Outcome
	ios, n   int
	result   *DrillResult
	written  map[int64]bool // byte offsets on the spare device
}

func newDrillRig(t *testing.T) *drillRig {
	d := &drillRig{rig: newEventsRig(t), written: map[int64]bool{},
		outcomes: func(int) metadata.Outcome { return metadata.OutcomeDurable }}
	d.disks = [2]map[int64]byte{{}, {}}
	return d
}

func (d *drillRig) begin() error {
	d.com.calls = nil
	return d.Drill(func(r DrillResult) { d.result = &r })
}

// go on until it has ended, or n results were given.
func (d *drillRig) goOn(n int) {
	d.t.Helper()
	for ; n > 0 && d.result == nil; n-- {
		switch {
		case len(d.com.calls) > 0:
			if d.com.calls[0] != "commit" {
				d.t.Fatalf("the Committer is asked %q", d.com.calls)
			}
			d.com.calls = d.com.calls[1:]
			d.n++
			d.com.results = []metadata.Result{{Ticket: d.com.next, Outcome: d.outcomes(d.n)}}
			d.Step()
		case len(d.rig.ios) > 0:
			d.carryOut()
		case d.Deadline() != 0:
			d.sleep(d.after(d.Deadline()))
		default:
			d.t.Fatalf("it hangs: %q", d.calls)
		}
	}
}

// carryOut carries out the first IO.
func (d *drillRig) carryOut() {
	io := d.rig.ios[0]
	d.ios++
	if d.fail != nil {
		if res := d.fail(d.ios, &io); res != 0 {
			d.answer(res)
			return
		}
	}
	for i := range io.Data {
		at := io.Offset + int64(i)
		if io.Kind == Read {
			io.Data[i] = d.disks[io.Device][at]
			continue
		}
		d.disks[io.Device][at] = io.Data[i]
		if io.Kind == Write {
			d.written[at] = true
		}
	}
	d.answer(int32(len(io.Data)))
}

// TestDrill: all steps go well, with records on the live metadata. The table and the allocator are
// as before, and nothing was written outside of the spare region.
func TestDrill(t *testing.T) {
	d := newDrillRig(t)
	before := d.Status().Arbiter
	if err := d.begin(); err != nil {
		t.Fatal(err)
	}
	if err := d.Drill(nil); !errors.Is(err, remap.ErrBusy) {
		t.Errorf("a second one: %v", err)
	}
	if now := d.Status().Arbiter; now.Used != before.Used+1+drillSpares {
		t.Errorf("set aside: %+v", now)
	}
	d.goOn(10000)
	r := d.result
	if r.Err != nil || len(r.Steps) != len(drillScript) || r.Commits < 3 {
		t.Fatalf("%+v", r)
	}
	if now := d.Status().Arbiter; now != before {
		t.Errorf("afterwards %+v, before %+v", now, before)
	}
	if n := d.shared.Map().Counts(); n != (remap.Counts{}) {
		t.Errorf("the table has changed: %+v", n)
	}
	geo := d.shared.Geometry()
	for at := range d.written {
		e := geo.Spares[0]
		if at < e.Offset || at >= e.Offset+int64(e.Count)*metadata.UnitSize {
			t.Fatalf("it wrote at %d, outside of the spare region", at)
		}
	}
	if len(d.disks[0]) > 0 {
		t.Error("it wrote to the backing, which has no spare units")
	}
}

// TestDrillFails: wherever an operation fails, or a flush, the rehearsal ends, says so, and leaves
// nothing.
func TestDrillFails(t *testing.T) {
	for n := 1; ; n++ {
		d := newDrillRig(t)
		before := d.Status().Arbiter
		hit := false
		d.fail = func(i int, _ *IO) int32 {
			if i != n {
				return 0
			}
			hit = true
			return -int32(syscall.EIO)
		}
		if err := d.begin(); err != nil {
			t.Fatal(err)
		}
		d.goOn(10000)
		if !hit {
			if n < 10 {
				t.Fatalf("only %d operations", n)
			}
			return
		}
		if d.result == nil || !errors.Is(d.result.Err, ErrDrill) {
			t.Fatalf("operation %d fails: %+v", n, d.result)
		}
		if now := d.Status().Arbiter; now != before || d.shared.Tripped() {
			t.Errorf("operation %d fails: %+v, before %+v", n, now, before)
		}
	}
}

// TestDrillCommitUnknown: if the metadata takes no commit, the breaker opens as for any commit.
func TestDrillCommitUnknown(t *testing.T) {
	d := newDrillRig(t)
	d.outcomes = func(n int) metadata.Outcome {
		if n == 2 {
			return metadata.OutcomeUnknown
		}
		return metadata.OutcomeDurable
	}
	if err := d.begin(); err != nil {
		t.Fatal(err)
	}
	d.goOn(10000)
	if d.result == nil || !errors.Is(d.result.Err, ErrDrill) || !d.shared.Tripped() ||
		d.Status().Arbiter.Kind != remap.TripMetadata {
		t.Fatalf("%+v, %+v", d.result, d.Status().Arbiter)
	}
	if err := d.begin(); !errors.Is(err, remap.ErrTripped) {
		t.Errorf("with the breaker open: %v", err)
	}
}

// TestDrillEnds: a stop does not wait for the rest of a rehearsal.
func TestDrillEnds(t *testing.T) {
	for n := range 20 {
		d := newDrillRig(t)
		if err := d.begin(); err != nil {
			t.Fatal(err)
		}
		d.goOn(n)
		if d.result != nil {
			t.Fatalf("it has ended after %d", n)
		}
		stopped := false
		d.Stop(time.Minute, func(Stopped) { stopped = true })
		d.com.calls = slices.DeleteFunc(d.com.calls, func(s string) bool {
			return s == "checkpoint"
		})
		last := d.com.next
		for range 1000 {
			if stopped && d.result != nil {
				break
			}
			switch {
			case len(d.com.calls) > 0:
				d.com.calls = nil
				d.com.results = []metadata.Result{{Ticket: last - 1,
					Outcome: metadata.OutcomeDurable}}
				d.Step()
			case len(d.rig.ios) > 0:
				d.carryOut()
			case last != 0:
				d.com.results = []metadata.Result{{Ticket: last, Outcome: metadata.OutcomeDurable}}
				last = 0
				d.Step()
			default:
				d.sleep(time.Millisecond)
			}
		}
		if !stopped || d.result == nil || len(d.result.Steps) < len(drillScript) &&
			!errors.Is(d.result.Err, ErrDrillEnded) {
			t.Fatalf("after %d: stopped %v, %+v, %q", n, stopped, d.result, d.com.calls)
		}
	}
}

// TestDrillEndsBeforeTheServer: wherever a rehearsal is, a leave and a stop wait for what it has
// under way, and it begins nothing more. Its units are free to the next server.
func TestDrillEndsBeforeTheServer(t *testing.T) {
	for n := range 40 {
		for _, leave := range []bool{false, true} {
			d := newDrillRig(t)
			before := d.Status().Arbiter
			if err := d.begin(); err != nil {
				t.Fatal(err)
			}
			if d.goOn(n); d.result != nil {
				if n < 20 {
					t.Fatalf("it has ended after %d", n)
				}
				return
			}
			d.endServer(n, leave)
			if now := d.Status().Arbiter; now != before || d.result == nil ||
				!errors.Is(d.result.Err, ErrDrillEnded) {
				t.Fatalf("after %d, leave %v: %+v; %+v, before %+v", n, leave, d.result, now,
					before)
			}
		}
	}
}

// endServer ends the server in the middle of a rehearsal. A commit or an operation of it ends, and
// then the end must come at once.
func (d *drillRig) endServer(n int, leave bool) {
	d.t.Helper()
	committing, busy := slices.Contains(d.com.calls, "commit"), len(d.rig.ios) > 0
	ticket, begun, ended := d.com.next, len(d.calls), false
	d.com.calls, d.com.busy = nil, committing
	if leave {
		d.Leave(time.Minute, func(error) { ended = true })
	} else {
		d.Stop(time.Minute, func(Stopped) { ended = true })
		d.com.results = []metadata.Result{{Ticket: d.com.next, Outcome: metadata.OutcomeDurable}}
		d.Step()
	}
	if (committing || busy) && (ended || d.result != nil) || len(d.calls) > begun {
		d.t.Fatalf("after %d, leave %v: ended %v with %d under way, %+v; begun %q", n, leave, ended,
			len(d.rig.ios), d.result, d.calls[begun:])
	}
	if committing {
		d.com.busy = false
		d.com.results = []metadata.Result{{Ticket: ticket, Outcome: metadata.OutcomeDurable}}
		d.Step()
	}
	for range 3 { // what is under way: a read, or a write and its flush
		if d.result == nil && len(d.rig.ios) > 0 {
			d.carryOut()
		}
	}
	writes := func(s string) bool { return !strings.HasPrefix(s, "flush") }
	if slices.ContainsFunc(d.calls[begun:], writes) {
		d.t.Fatalf("after %d, leave %v: it goes on: %q", n, leave, d.calls[begun:])
	}
	for !leave && !ended && len(d.rig.ios) > 0 {
		d.carryOut() // the flushes of a stop
	}
	if !ended {
		d.t.Fatalf("after %d, leave %v: it hangs: %q", n, leave, d.calls[begun:])
	}
}
