package remap

import (
	"errors"
	"strings"
	"syscall"
	"testing"
)

const goneReason = "/dev/sdx is gone: it has no size any more"

// TestGone: a missing disk opens the breaker at the first error, whatever that is. The same errors
// of a disk that is present do not.
func TestGone(t *testing.T) {
	for _, op := range []Op{OpRead, OpWrite, OpFlush} {
		for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.ENODEV, syscall.ENXIO, 0} {
			if errno == 0 && op == OpFlush {
				continue
			}
			for _, gone := range []bool{false, true} {
				r := newRig(t, 512, 64)
				if gone {
					r.gone = map[uint8]string{0: goneReason}
				}
				for range 2 {
					q := Request{Op: op, Block: 2000, Count: 1}
					if op == OpFlush {
						q.Block, q.Count = 0, 0
					}
					r.e.Submit(&q)
					io := r.ios[0]
					r.ios = nil
					r.e.Complete(io.ID, -int32(errno)) // 0: not even a block
					r.run()
					want := -int32(errno)
					if errno == 0 {
						want = -int32(syscall.EIO)
					}
					r.want("answer", r.results[0], want)
					r.want("tripped", r.s.Tripped(), gone)
				}
				r.want("used", r.alloc.Used(), uint64(0))
				if !gone {
					r.want("alerts", len(r.alerts), 0)
					continue
				}
				r.want("alerts", len(r.alerts), 1)
				r.want("reason", r.a.Status().Reason, goneReason)
				if err := r.a.Resume(); !errors.Is(err, ErrMissing) ||
					!strings.Contains(err.Error(),
						goneReason) {
					t.Errorf("resume: %v", err)
				}
				r.gone = nil
				if err := r.a.Resume(); err != nil {
					t.Error(err)
				}
				r.run()
				r.want("tripped", r.s.Tripped(), false)
				r.want("a write", r.do(OpWrite, 2000, 1), int32(0))
			}
		}
	}
}

// TestGoneIsTheReason: if the breaker opens for another reason, that reason names the disk, and
// says so if the disk is missing.
func TestGoneIsTheReason(t *testing.T) {
	for _, gone := range []bool{false, true} {
		for _, unknown := range []bool{false, true} {
			r := newRig(t, 512, 64)
			r.a.cfg.Names = []string{"/dev/sdx"}
			if gone {
				r.gone = map[uint8]string{0: goneReason}
			}
			r.unknown = unknown
			r.breakHome(2000, syscall.EIO)
			what := "no metadata mirror"
			if !unknown {
				what = "every spare unit"
				for u := range uint32(64) {
					r.breakSpare(u, syscall.EIO)
				}
			}
			r.want("write", r.do(OpWrite, 2000, 1), -int32(syscall.EIO))
			r.want("tripped", r.s.Tripped(), true)
			reason := r.a.Status().Reason
			if gone && reason != goneReason || !gone && !strings.HasPrefix(reason,
				"/dev/sdx: "+what) {
				t.Errorf("gone %v: %s", gone, reason)
			}
		}
	}

	// The disk is found missing while the breaker is open, by a check without an error.
	r := newRig(t, 512, 64)
	r.a.CheckDevices()
	r.want("tripped", r.s.Tripped(), false)
	r.a.trip(TripPath, "something")
	r.gone = map[uint8]string{0: goneReason}
	r.a.CheckDevices()
	r.want("reason", r.a.Status().Reason, goneReason)
	r.want("alerts", len(r.alerts), 1)
}

// TestSpareUnderTest: a spare unit that is tested has no owner, but counts as used. A request that
// has tried it before, and ends meanwhile, does not free it.
func TestSpareUnderTest(t *testing.T) {
	r := newRig(t, 4096, 64)
	const spare = 5
	for name, s := range map[string]search{
		"under test": {step: searchReading, now: job{kind: jobTest, spare: spare},
			spare: spare},
		"to be tested":          {step: searchAsking, jobs: []job{{kind: jobTest, spare: spare}}},
		"tried for somebody":    {step: searchWriting, now: job{kind: jobMove}, spare: spare},
		"tested, and not asked": {step: searchAsking, now: job{kind: jobTest, spare: spare}},
	} {
		if err := r.a.alloc.Take(spare, 1); err != nil {
			t.Fatal(err)
		}
		r.a.search = s
		r.a.freeUnused(7, spare)
		if r.a.alloc.FreeDeferred(spare) || !r.a.alloc.IsUsed(spare) {
			t.Errorf("%s: it is freed", name)
		}
		r.a.free(spare, 1)
	}
	r.a.search = search{}
	if err := r.a.alloc.Take(spare, 1); err != nil {
		t.Fatal(err)
	}
	if r.a.freeUnused(7, spare); !r.a.alloc.FreeDeferred(spare) {
		t.Error("one that nobody tries stays in use")
	}
}
