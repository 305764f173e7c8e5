package remap

import (
	"errors"
	"strings"
	"syscall"
	"testing"
)

const goneReason = "/dev/sdx is gone: it has no size any more"

// TestGone: a disk that is gone opens the breaker at the first error, whatever that
// is; the same errors of a disk that is there do not.
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
				if err := r.a.Resume(); !errors.Is(err, ErrGone) || !strings.Contains(err.Error(), goneReason) {
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

// TestGoneIsTheReason: what else opens the breaker names the disk, and says so if it
// is gone.
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
			if gone && reason != goneReason || !gone && !strings.HasPrefix(reason, "/dev/sdx: "+what) {
				t.Errorf("gone %v: %s", gone, reason)
			}
		}
	}

	// Found gone while the breaker is open, and by somebody who only looks.
	r := newRig(t, 512, 64)
	r.a.Look()
	r.want("tripped", r.s.Tripped(), false)
	r.a.trip(TripPath, "something")
	r.gone = map[uint8]string{0: goneReason}
	r.a.Look()
	r.want("reason", r.a.Status().Reason, goneReason)
	r.want("alerts", len(r.alerts), 1)
}
