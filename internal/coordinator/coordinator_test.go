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

// TestOpen: a start is durable only if its ticket is.
func TestOpen(t *testing.T) {
	for _, o := range []metadata.Outcome{metadata.OutcomeDurable, metadata.OutcomeUnknown,
		metadata.OutcomeDropped} {
		r := newRig(t, metadata.RetryLimits{})
		told, failed := false, error(nil)
		if err := r.Open(func(err error) { told, failed = true, err }); err != nil {
			t.Fatal(err)
		}
		if told {
			t.Fatal("told before it is known")
		}
		r.com.results = []metadata.Result{{Ticket: 1, Outcome: o}}
		r.Step()
		if !told || (failed == nil) != (o == metadata.OutcomeDurable) {
			t.Errorf("outcome %d: told %v: %v", o, told, failed)
		}
		if len(r.notDurable) > 0 {
			t.Error("it is no change of the table")
		}
	}
	r := newRig(t, metadata.RetryLimits{})
	r.com.refuse = metadata.ErrNotOpen
	if err := r.Open(nil); !errors.Is(err, metadata.ErrNotOpen) {
		t.Errorf("refused: %v", err)
	}
}

// TestOutcomes: a commit of the Arbiter counts as durable only if it is. A refused commit is
// reported.
func TestOutcomes(t *testing.T) {
	for _, o := range []metadata.Outcome{metadata.OutcomeDurable, metadata.OutcomeUnknown,
		metadata.OutcomeDropped} {
		r := newRig(t, metadata.RetryLimits{})
		r.Receive(&remap.Message{Kind: remap.MsgPending, Unit: 1000, Count: 1, First: 1, Last: 1,
			Errno: -int32(syscall.ENODATA)})
		r.Step()
		if !slices.Equal(r.com.calls, []string{"commit"}) {
			t.Fatalf("the Committer is asked %q", r.com.calls)
		}
		r.com.results = []metadata.Result{{Ticket: 1, Outcome: o}}
		r.Step()
		durable := o == metadata.OutcomeDurable
		if info := r.shared.Map().Unit(1000); info.Pending == 1 != durable ||
			r.shared.Tripped() == durable || len(r.notDurable) > 0 == durable {
			t.Errorf("outcome %d: %+v, the breaker is open: %v", o, info, r.shared.Tripped())
		}
	}
	r := newRig(t, metadata.RetryLimits{})
	r.com.refuse = metadata.ErrSuspended
	r.Receive(&remap.Message{Kind: remap.MsgPending, Unit: 1000, Count: 1, First: 1, Last: 1,
		Errno: -int32(syscall.ENODATA)})
	r.Step()
	if len(r.notDurable) != 1 || !errors.Is(r.notDurable[0], metadata.ErrSuspended) {
		t.Errorf("refused: %v", r.notDurable)
	}
}

// TestResume: if the Committer waits for a resume, it is asked to resume; otherwise it is asked for
// a commit. The caller is told whether the breaker is closed or stays open.
func TestResume(t *testing.T) {
	for _, suspended := range []bool{false, true} {
		for _, durable := range []bool{false, true} {
			r := newRig(t, metadata.RetryLimits{})
			if err := r.Resume(nil); !errors.Is(err, remap.ErrNotTripped) {
				t.Fatalf("the breaker is closed: %v", err)
			}
			r.Receive(&remap.Message{Kind: remap.MsgPending, Unit: 1000, Count: 1, First: 1,
				Last: 1, Errno: -int32(syscall.ENODATA)})
			r.com.results = []metadata.Result{{Ticket: 1, Outcome: metadata.OutcomeUnknown}}
			r.Step()
			r.com.status.Suspended, r.com.busy, r.com.calls = suspended, true, nil
			var told []bool
			if err := r.Resume(func(closed bool) { told = append(told, closed) }); err != nil {
				t.Fatal(err)
			}
			if want := map[bool]string{false: "commit", true: "resume"}[suspended]; !slices.Equal(
				r.com.calls, []string{want}) || len(told) > 0 {
				t.Fatalf("suspended %v: asked %q, told %v", suspended, r.com.calls, told)
			}
			r.com.busy = false
			o := metadata.OutcomeUnknown
			if durable {
				o = metadata.OutcomeDurable
			}
			r.com.results = []metadata.Result{{Ticket: 2, Outcome: o}}
			r.Step()
			if !slices.Equal(told, []bool{durable}) || r.shared.Tripped() == durable {
				t.Errorf("durable %v: told %v, the breaker is open: %v", durable, told,
					r.shared.Tripped())
			}
		}
	}
}

// TestMirrorRetry: the pauses double, up to somewhat more than an hour. They begin anew when all
// mirrors are good.
func TestMirrorRetry(t *testing.T) {
	r := newRig(t, metadata.RetryLimits{})
	r.Step()
	if r.MirrorsDue() != 0 {
		t.Error("the clock runs, and all is well")
	}
	r.com.backedOff = true
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 64} {
		r.Step()
		if got := r.after(r.MirrorsDue()); got != want*time.Minute || r.Deadline() != 0 {
			t.Fatalf("tried again in %v, want %v minutes", got, want)
		}
		r.sleep(want*time.Minute - 1)
		if len(r.com.calls) > 0 {
			t.Fatal("too soon")
		}
		r.sleep(1)
		if !slices.Equal(r.com.calls, []string{"try again"}) {
			t.Fatalf("asked %q", r.com.calls)
		}
		r.com.calls = nil
	}
	r.com.backedOff, r.com.status.Suspended = false, true
	r.sleep(64 * time.Minute)
	r.com.backedOff = true
	r.Step()
	if got := r.after(r.MirrorsDue()); got != 64*time.Minute {
		t.Errorf("suspended meanwhile: tried again in %v", got)
	}
	r.com.backedOff, r.com.status.Suspended = false, false
	r.sleep(64 * time.Minute)
	r.com.backedOff = true
	r.Step()
	if got := r.after(r.MirrorsDue()); got != time.Minute {
		t.Errorf("all was well meanwhile: tried again in %v", got)
	}
}

// TestStop: a stop makes the checkpoint, then the Committer's last write, then a flush of each
// device.
func TestStop(t *testing.T) {
	r := newRig(t, metadata.RetryLimits{Resources: time.Hour, Path: time.Hour})
	var stopped *Stopped
	r.com.busy = true
	r.Stop(time.Second, func(s Stopped) { stopped = &s })
	r.sleep(time.Millisecond)
	if !slices.Equal(r.com.calls, []string{"checkpoint"}) || len(r.calls) > 0 {
		t.Fatalf("asked %q, and %q", r.com.calls, r.calls)
	}
	r.com.results = []metadata.Result{{Ticket: 1, Outcome: metadata.OutcomeDurable}}
	r.Step()
	if len(r.calls) > 0 {
		t.Fatalf("the Committer writes, and there is %q", r.calls)
	}
	r.com.busy = false
	r.Step()
	if !slices.Equal(r.calls, []string{"flush 0", "flush 1"}) {
		t.Fatalf("flushed %q", r.calls)
	}
	r.answer(0)
	if stopped != nil {
		t.Fatal("stopped with a flush under way")
	}
	r.answer(0)
	if stopped == nil || stopped.Metadata != nil || stopped.Flush != nil || r.Deadline() != 0 {
		t.Errorf("stopped %+v, due %d", stopped, r.Deadline())
	}
}

// TestStopThatFails: each failed flush is reported, and made only once. A checkpoint that fails, or
// comes too late, does not prevent the flushes.
func TestStopThatFails(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENODATA, syscall.ENOLINK} {
		for failed, path := range []string{"/dev/a", "/dev/b"} {
			r := newRig(t, metadata.RetryLimits{Resources: time.Hour, Path: time.Hour})
			r.com.refuse = metadata.ErrNotOpen
			var stopped *Stopped
			r.Stop(time.Second, func(s Stopped) { stopped = &s })
			for i := range 2 {
				if i == failed {
					r.answer(-int32(errno))
				} else {
					r.answer(0)
				}
			}
			if stopped == nil || !errors.Is(stopped.Flush, errno) ||
				!strings.HasPrefix(stopped.Flush.Error(), path) || len(r.calls) != 2 {
				t.Errorf("%v of %s: %+v after %q", errno, path, stopped, r.calls)
			}
			if !errors.Is(stopped.Metadata, metadata.ErrNotOpen) {
				t.Errorf("no checkpoint: %v", stopped.Metadata)
			}
		}
	}
	for _, late := range []bool{false, true} {
		r := newRig(t, metadata.RetryLimits{})
		var stopped *Stopped
		r.com.busy = late
		r.Stop(time.Second, func(s Stopped) { stopped = &s })
		want := ErrCheckpoint
		if late {
			if r.after(r.Deadline()) != time.Second {
				t.Errorf("it waits for %v", r.after(r.Deadline()))
			}
			r.sleep(time.Second)
			want = ErrStillWriting
		}
		r.com.results = []metadata.Result{{Ticket: 1, Outcome: metadata.OutcomeDropped}}
		r.Step()
		r.answer(0)
		r.answer(0)
		if stopped == nil || !errors.Is(stopped.Metadata, want) || stopped.Flush != nil ||
			len(r.calls) != 2 {
			t.Errorf("late %v: %+v after %q", late, stopped, r.calls)
		}
	}
}

// TestStopLacksResources: the last flush of a stop is asked for again while resources are lacking,
// for a limited time.
func TestStopLacksResources(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOMEM, syscall.EAGAIN, syscall.EBUSY} {
		for _, ends := range []bool{true, false} {
			r := newRig(t, metadata.RetryLimits{Resources: time.Second, Path: time.Hour})
			var stopped *Stopped
			r.Stop(time.Second, func(s Stopped) { stopped = &s })
			r.com.results = []metadata.Result{{Ticket: 1, Outcome: metadata.OutcomeDurable}}
			r.Step()
			began := r.now
			r.answer(-int32(errno))
			r.answer(0)
			for n := 0; stopped == nil && n < 100; n++ {
				r.sleep(r.after(r.Deadline()))
				if ends && n == 3 {
					r.answer(0)
				} else {
					r.answer(-int32(errno))
				}
			}
			if stopped == nil || (stopped.Flush == nil) != ends || !ends &&
				(!errors.Is(stopped.Flush, errno) || r.now-began != int64(time.Second)) {
				t.Errorf("%v, resources come back: %v; %+v after %v", errno, ends, stopped,
					time.Duration(r.now-began))
			}
			if r.Deadline() != 0 || r.Status().FlushErrors != 0 {
				t.Errorf("%v: due %d, %d failed flushes", errno, r.Deadline(),
					r.Status().FlushErrors)
			}
		}
	}
}

// TestLeave: a leave waits for the Committer, for a limited time, and flushes nothing.
func TestLeave(t *testing.T) {
	for _, late := range []bool{false, true} {
		r := newRig(t, metadata.RetryLimits{})
		told, failed := false, error(nil)
		r.com.busy = true
		r.Leave(time.Second, func(err error) { told, failed = true, err })
		r.sleep(time.Second - 1)
		if told {
			t.Fatal("it leaves, and the Committer writes")
		}
		if r.com.busy = late; late {
			r.sleep(1)
		} else {
			r.Step()
		}
		if !told || errors.Is(failed, ErrStillWriting) != late || len(r.calls) > 0 ||
			len(r.com.calls) > 0 {
			t.Errorf("late %v: told %v: %v; %q, %q", late, told, failed, r.calls, r.com.calls)
		}
	}
}

// TestMove: the transfers of a move are operations, and its caller is told how it ended.
func TestMove(t *testing.T) {
	r := newRig(t, metadata.RetryLimits{})
	var result *remap.MoveResult
	if err := r.Move(remap.Move{Block: 8000, Count: 8, ToSpare: true},
		func(m remap.MoveResult) { result = &m }); err != nil {
		t.Fatal(err)
	}
	// With one queue, that has nothing in flight.
	r.Receive(&remap.Message{Kind: remap.MsgGraceDone, Generation: 1})
	r.Step()
	var kinds []Kind
	for len(r.ios) > 0 && len(kinds) < 16 {
		if !r.ios[0].Transfer {
			t.Errorf("%+v is no transfer", r.ios[0])
		}
		kinds = append(kinds, r.ios[0].Kind)
		r.answer(int32(len(r.ios[0].Data)))
	}
	if !slices.Equal(kinds, []Kind{Read, Write, Flush, Read}) {
		t.Fatalf("carried out by %v", kinds)
	}
	if !slices.Equal(r.com.calls, []string{"commit"}) || result != nil {
		t.Fatalf("asked %q, told %+v", r.com.calls, result)
	}
	r.com.results = []metadata.Result{{Ticket: 1, Outcome: metadata.OutcomeDurable}}
	r.Step()
	for g := uint64(2); result == nil && g < 5; g++ {
		r.Receive(&remap.Message{Kind: remap.MsgGraceDone, Generation: g})
		r.Step()
	}
	if result == nil || result.Moved != 8 || result.Err != nil {
		t.Errorf("told %+v", result)
	}
	if err := r.Move(remap.Move{Block: 1 << 40, Count: 1}, nil); !errors.Is(err,
		remap.ErrRange) || len(r.moves) > 0 {
		t.Errorf("no such block: %v; %d moves are kept", err, len(r.moves))
	}
}
