package coordinator

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// newEventsRig is a rig with a flight recorder, of a server that is open.
func newEventsRig(t *testing.T) *rig {
	t.Helper()
	r := newRigWith(t, metadata.RetryLimits{}, &Events{
		Micros:      func() int64 { return 1_700_000_000_000_000 },
		Temperature: func() (int8, bool) { return 41, true },
	})
	r.com.status.Epoch = 7
	if err := r.Open(func(error) {}); err != nil {
		t.Fatal(err)
	}
	r.com.results = []metadata.Result{{Ticket: 1, Outcome: metadata.OutcomeDurable}}
	r.Step()
	return r
}

// events are those that were noted.
func (r *rig) events() []metadata.Event {
	b, first, _, _ := r.AppendEvents(nil, 0, 1000)
	return metadata.AppendEvents(nil, b, first)
}

// report has a block become pending, up to its commit.
func (r *rig) report(unit uint64) {
	r.com.calls = nil
	r.Receive(&remap.Message{Kind: remap.MsgPending, Unit: unit, Count: 1, First: 4, Last: 4,
		Errno: -int32(syscall.ENODATA), Cause: metadata.CauseRead, Since: r.now - 1500})
	r.Step()
	if !slices.Contains(r.com.calls, "commit") {
		r.t.Fatalf("the Committer is asked %q", r.com.calls)
	}
}

func (r *rig) durable() {
	r.com.results = []metadata.Result{{Ticket: r.com.next, Outcome: metadata.OutcomeDurable}}
	r.Step()
}

// TestEventsAfterTheFact: an event is noted once its change is durable, and written some time after
// that. Commits and requests do not wait for the write, however long it takes.
func TestEventsAfterTheFact(t *testing.T) {
	r := newEventsRig(t)
	r.report(1000)
	if len(r.events()) > 0 {
		t.Fatal("noted before it is durable")
	}
	r.durable()
	want := metadata.Event{Number: 1, Micros: 1_700_000_000_000_000, Kind: metadata.EventPending,
		Done: metadata.EventDone(metadata.CauseRead), Errno: uint16(syscall.ENODATA),
		HasBlock: true, Block: 8002, Count: 1, HasLatency: true, Latency: 1, HasTemperature: true,
		Temperature: 41}
	if got := r.events(); len(got) != 1 || got[0] != want {
		t.Fatalf("%+v, want %+v", got, want)
	}
	if len(r.ios) > 0 || r.Deadline() != 0 || r.EventsDue() == 0 {
		t.Fatalf("it is written at once: %q", r.calls)
	}
	r.sleep(r.after(r.EventsDue()))
	if len(r.ios) != 2 || r.ios[0].Kind != Write || !r.ios[0].Durable {
		t.Fatalf("under way: %q", r.calls)
	}
	// Both writes hang.
	r.report(2000)
	r.durable()
	if len(r.events()) != 2 {
		t.Fatalf("%+v", r.events())
	}
	hung := r.ios
	r.ios = nil
	var stopped *Stopped
	r.Stop(time.Second, func(s Stopped) { stopped = &s })
	r.com.results = []metadata.Result{{Ticket: r.com.next, Outcome: metadata.OutcomeDurable}}
	r.Step()
	if stopped != nil || len(r.ios) > 0 {
		t.Fatal("it does not wait for the events at all")
	}
	r.sleep(time.Second)
	for len(r.ios) > 0 {
		r.answer(0)
	}
	if stopped == nil || stopped.Metadata != nil || stopped.Flush != nil {
		t.Fatalf("%+v: only the events are late", stopped)
	}
	for _, io := range hung {
		r.Done(io.ID, whole)
	}
}

// TestEventsAreWrittenAtTheEnd: a stop and a leave write what was noted, before they end.
func TestEventsAreWrittenAtTheEnd(t *testing.T) {
	for _, leave := range []bool{false, true} {
		r := newEventsRig(t)
		ended := false
		r.Note(metadata.Event{Kind: metadata.EventStop})
		if leave {
			r.Leave(time.Second, func(error) { ended = true })
		} else {
			r.Stop(time.Second, func(Stopped) { ended = true })
			r.com.results = []metadata.Result{{Ticket: r.com.next,
				Outcome: metadata.OutcomeDurable}}
			r.Step()
		}
		if ended || len(r.ios) != 2 {
			t.Fatalf("ended %v: %q", ended, r.calls)
		}
		for range 3 { // the flushes end at different times, and one waits for the other
			for len(r.ios) > 0 {
				r.answer(int32(len(r.ios[0].Data)))
			}
			r.sleep(time.Millisecond)
		}
		if flushes := strings.Count(strings.Join(r.calls, " "), "flush"); !ended || flushes < 2 {
			t.Errorf("ended %v: %q", ended, r.calls)
		}
	}
}

// TestEventsFail: events that cannot be written harm nobody, and are tried again.
func TestEventsFail(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENODEV, syscall.ENOSPC} {
		r := newEventsRig(t)
		r.Note(metadata.Event{Kind: metadata.EventHang})
		tries := 0
		for r.now < int64(2*time.Hour) && r.EventsDue() != 0 {
			r.sleep(r.after(r.EventsDue()))
			for len(r.ios) > 0 {
				tries++
				r.answer(-int32(errno))
			}
		}
		if tries < 10 || tries > 200 || r.shared.Tripped() || len(r.alerts) > 0 {
			t.Errorf("%v: %d tries, tripped %v", errno, tries, r.shared.Tripped())
		}
		r.sleep(r.after(r.EventsDue()))
		for len(r.ios) > 0 {
			r.answer(int32(len(r.ios[0].Data)))
		}
		if st := r.Status(); st.FlushErrors > 0 || len(r.com.done) > 0 {
			t.Errorf("%+v, %v", st, r.com.done)
		}
	}
}

// TestEventsOfTheBreaker: the breaker's opening is noted with its reason, and what a commit of
// unknown outcome was about.
func TestEventsOfTheBreaker(t *testing.T) {
	r := newEventsRig(t)
	r.report(1000)
	r.com.results = []metadata.Result{{Ticket: r.com.next, Outcome: metadata.OutcomeUnknown}}
	r.Step()
	var kinds []metadata.EventKind
	for _, e := range r.events() {
		kinds = append(kinds, e.Kind)
		if e.Kind == metadata.EventTripped && e.Done != metadata.EventTripMetadata {
			t.Errorf("%+v", e)
		}
	}
	if !slices.Contains(kinds, metadata.EventTripped) ||
		!slices.Contains(kinds, metadata.EventUnknown) {
		t.Errorf("%v", kinds)
	}
}
