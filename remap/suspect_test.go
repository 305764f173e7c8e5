package remap

import (
	"syscall"
	"testing"

	"ublkremap/metadata"
)

// badSpares breaks the spare units that a pattern names.
func (r *rig) badSpares(is func(u uint32) bool) {
	for u := range uint32(r.alloc.Total()) {
		if is(u) {
			r.breakSpare(u, syscall.EIO)
		}
	}
}

// TestSearchWidens: with most of the spare region bad, in whatever pattern, each write is healed,
// no unit that failed is granted again, and all that failed is retired, durably.
func TestSearchWidens(t *testing.T) {
	tests := 0
	for name, bad := range map[string]func(u uint32) bool{
		"one in eight is well":  func(u uint32) bool { return u%8 != 7 },
		"the first half is bad": func(u uint32) bool { return u < 400 },
		"the last half is bad":  func(u uint32) bool { return u >= 400 },
		"every other":           func(u uint32) bool { return u%2 == 0 },
		"one in sixteen":        func(u uint32) bool { return u%16 != 3 },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 4096, 800)
			r.badSpares(bad)
			r.watch = func() {
				if s := &r.a.search; s.step != searchIdle && s.now.kind == jobTest {
					tests++
					r.want("used, while a unit is tested", r.a.Status().Used, r.s.m.Counts().Mapped)
				}
			}
			for b := uint64(2000); b < 2030; b++ {
				r.breakHome(b, syscall.EIO)
				r.want("write", r.do(OpWrite, b, 1), int32(0))
				r.want("read", r.do(OpRead, b, 1), int32(0))
			}
			r.want("tripped", r.s.Tripped(), false)
			r.want("used", r.alloc.Used(), uint64(30))
			r.want("suspect at the end", r.a.Status().Suspect, uint64(0))
			seen := map[uint32]bool{}
			for _, e := range r.entries {
				if e.State != metadata.StateRetired {
					continue
				}
				for u := e.Spare; u < e.Spare+e.Count; u++ {
					if seen[u] || !bad(u) {
						t.Errorf("spare unit %d is retired: twice %v, bad %v", u, seen[u], bad(u))
					}
					seen[u] = true
				}
			}
			r.want("retired", r.alloc.Retired(), uint64(len(seen)))
		})
	}
	if tests == 0 {
		t.Error("no unit was tested again")
	}
}

// TestAllSparesBad: the breaker opens for the medium. Nothing is retired until a spare unit takes
// data. Then all units that failed are retired.
func TestAllSparesBad(t *testing.T) {
	r := newRig(t, 4096, 64)
	r.s.geo.Known = [][]int64{{0}} // it reads
	r.badSpares(func(uint32) bool { return true })
	r.breakHome(2000, syscall.EIO)
	r.want("write", r.do(OpWrite, 2000, 1), -int32(syscall.EIO))
	r.want("tripped", r.s.Tripped(), true)
	r.want("kind", r.a.Status().Kind, TripMedia)
	r.want("retired", r.alloc.Retired(), uint64(0))
	r.want("suspect", r.a.Status().Suspect, uint64(64))
	for u := range uint32(8) {
		_, off := r.s.geo.SpareOffset(40 + u)
		delete(r.bad, [2]int64{0, off})
	}
	r.resume()
	r.want("write", r.do(OpWrite, 2000, 1), int32(0))
	r.want("retired", r.alloc.Retired() >= 40, true)
	for u := range uint32(8) {
		if r.alloc.Service(40+u) == Retired && r.alloc.IsUsed(40+u) {
			t.Errorf("spare unit %d, which took data, is retired", 40+u)
		}
	}
}

func (r *rig) resume() {
	r.t.Helper()
	if err := r.a.Resume(); err != nil {
		r.t.Fatal(err)
	}
	r.run()
}

// TestVanishedRetiresNothing: the answers of a missing disk say nothing about its spare units,
// whatever they are, also once the disk is back.
func TestVanishedRetiresNothing(t *testing.T) {
	for _, all := range []bool{true, false} {
		r := newRig(t, 4096, 64)
		if all {
			r.away = map[int64]bool{0: true}
		} else { // nothing but the spare region
			r.badSpares(func(uint32) bool { return true })
		}
		r.breakHome(2000, syscall.EIO)
		r.want("write", r.do(OpWrite, 2000, 1), -int32(syscall.EIO))
		r.want("tripped", r.s.Tripped(), true)
		if all {
			r.want("kind", r.a.Status().Kind, TripPath)
			r.want("suspect", r.a.Status().Suspect, uint64(0))
		}
		r.bad, r.away = map[[2]int64]int32{}, nil
		r.resume()
		for b := uint64(2000); b < 2020; b++ {
			r.breakHome(b, syscall.EIO)
			r.want("write", r.do(OpWrite, b, 1), int32(0))
		}
		r.want("retired", r.alloc.Retired(), uint64(0))
	}
}

// TestSpareDeviceAway: the spare device answers EIO for a while, and the backing is good. Remapped
// blocks are read and written meanwhile. Then it is back. No medium ever failed there.
func TestSpareDeviceAway(t *testing.T) {
	const n = 50
	for _, op := range []Op{OpRead, OpWrite} {
		r := newRig(t, 4096, 1000)
		r.s.geo.Devices, r.s.geo.Spares[0].Device = 2, 1
		for b := uint64(1000); b < 1000+n; b++ {
			r.breakHome(b, syscall.EIO)
			r.want("write", r.do(OpWrite, b, 1), int32(0))
		}
		home := map[[2]int64]int32{}
		for k, v := range r.bad {
			home[k] = v
		}
		r.badSpares(func(uint32) bool { return true })
		for b := uint64(1000); b < 1000+n; b++ {
			r.want("while it is away", r.do(op, b, 1), -int32(syscall.EIO))
		}
		r.want("pending", r.s.m.Counts().Pending, uint64(0))
		r.bad = home
		if r.s.Tripped() {
			r.resume()
		}
		for b := uint64(1000); b < 1000+n; b++ {
			r.want("read when it is back", r.do(OpRead, b, 1), int32(0))
			r.want("write when it is back", r.do(OpWrite, b, 1), int32(0))
		}
		r.breakHome(3000, syscall.EIO)
		r.want("another heal", r.do(OpWrite, 3000, 1), int32(0))
		r.want("retired", r.alloc.Retired(), uint64(0))
		r.want("suspect", r.a.Status().Suspect, uint64(0))
	}
}

// TestBadUnitOfSpareDevice: a spare unit of a device that is present is retired if it fails again
// when it is tried by itself.
func TestBadUnitOfSpareDevice(t *testing.T) {
	r := newRig(t, 4096, 100)
	r.s.geo.Devices, r.s.geo.Spares[0].Device = 2, 1
	r.badSpares(func(u uint32) bool { return u < 3 })
	for b := uint64(1000); b < 1005; b++ {
		r.breakHome(b, syscall.EIO)
		r.want("write", r.do(OpWrite, b, 1), int32(0))
	}
	r.want("retired", r.alloc.Retired() > 0, true)
	r.want("a bad one in use", r.alloc.IsUsed(0) || r.alloc.IsUsed(1) || r.alloc.IsUsed(2), false)
}
