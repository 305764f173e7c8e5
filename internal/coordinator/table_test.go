package coordinator

import (
	"slices"
	"syscall"
	"testing"
	"time"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// fakeGrower makes room for a table as a test says.
type fakeGrower struct {
	asked    int
	growth   metadata.Growth
	next     metadata.Growth // what Grow leads to
	capacity uint64
}

func (g *fakeGrower) Growth() metadata.Growth { return g.growth }
func (g *fakeGrower) TableCapacity() uint64   { return g.capacity }
func (g *fakeGrower) StopGrowing()            { g.growth = metadata.GrowthNone }
func (g *fakeGrower) Grow() {
	g.asked++
	if g.growth == metadata.GrowthNone {
		g.growth = g.next
	}
}

// TestTableGrows: more room is asked for before anything is refused. A report that finds no room
// waits for it, and is refused only when no more room can be made.
func TestTableGrows(t *testing.T) {
	r := newRig(t, metadata.RetryLimits{})
	g := &fakeGrower{capacity: 600, next: metadata.GrowthUnderWay}
	r.grower = g
	r.Step()
	unit := uint64(300)
	// note reports a block, and says whether a commit is under way.
	note := func() bool {
		r.com.calls = nil
		r.Receive(&remap.Message{Kind: remap.MsgPending, Unit: unit, Count: 1, First: 1, Last: 1,
			Errno: -int32(syscall.ENODATA)})
		unit += 2
		r.Step()
		return slices.Contains(r.com.calls, "commit")
	}
	durable := func() {
		r.com.results = []metadata.Result{{Ticket: r.com.next,
			Outcome: metadata.OutcomeDurable}}
		r.Step()
	}
	fill := func(most uint64) uint64 {
		for n := uint64(0); n < most; n++ {
			if !note() {
				return n
			}
			durable()
		}
		t.Fatalf("all of %d are noted, %d entries fit", most, g.capacity)
		return 0
	}
	noted := fill(g.capacity)
	if g.asked == 0 || noted < 200 {
		t.Fatalf("%d noted, more room asked for %d times", noted, g.asked)
	}
	// The one that found no room waits until there is more.
	r.com.calls = nil
	r.Step()
	if len(r.com.calls) > 0 {
		t.Fatalf("asked %q", r.com.calls)
	}
	g.capacity, g.growth, g.next = 1000, metadata.GrowthNone, metadata.GrowthNoRoom
	r.Step()
	if !slices.Contains(r.com.calls, "commit") {
		t.Fatal("there is more room, and it still waits")
	}
	durable()
	more := fill(g.capacity)
	if more < noted/2 || g.growth != metadata.GrowthNoRoom {
		t.Fatalf("%d noted, then %d: %q", noted, more, g.growth)
	}
	if st := r.Status().Arbiter; !st.Table.Full || st.Claims != 0 || st.Tripped {
		t.Errorf("%+v", st)
	}
	g.growth = metadata.GrowthUnderWay
	r.com.busy = true
	if r.Leave(time.Second, func(error) {}); g.growth != metadata.GrowthNone {
		t.Errorf("the device ends, and its mirrors grow: %q", g.growth)
	}
	if growth, capacity := r.TableGrowth(); growth != g.growth || capacity != g.capacity {
		t.Errorf("%q, %d", growth, capacity)
	}
}
