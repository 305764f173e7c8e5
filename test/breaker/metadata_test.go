package breaker

import (
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ublkremap/metadata"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestMetadataWaits: while the record of a heal is written, a number of writes fail for lack of
// resources, or because the path is away. The write of the user waits, as it does for data, and
// succeeds. The breaker stays closed, and no mirror counts as bad.
func TestMetadataWaits(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	rig.Guard(t, 4*time.Minute)
	v := newServed(t)
	s := rig.Create(t, v.path, "", "--spare", "1MiB")
	lay := rig.LayoutOf(t, v.path)
	s.Start(t, "--queues", "1", "--resource-time", "10m")
	l := newLedger(t, s.Dev, dataSize)
	mirrors := lay.Of(metadata.RegionMirror, 0)
	for i, errno := range []syscall.Errno{syscall.ENOMEM, syscall.EBUSY, syscall.ENOLINK} {
		bad := rig.Extent{Start: lay.Head + int64(i)<<18, Length: unit}
		failing := map[syscall.Errno]int64{syscall.ENOLINK: 4}[errno] // of a path only for a while
		if failing == 0 {
			failing = 24
		}
		var left atomic.Int64
		left.Store(failing)
		v.say(func(write bool, e rig.Extent) syscall.Errno {
			switch {
			case !write:
			case e.Overlaps(bad):
				return syscall.EIO
			case e.Overlaps(mirrors[0]) || e.Overlaps(mirrors[1]):
				if left.Add(-1) >= 0 {
					return errno
				}
			}
			return 0
		})
		before := s.Status(t)
		if err := l.write(bad.Start, unit); err != nil {
			t.Errorf("%s: write of a sector that takes no writes: %v", errnoName(errno), err)
		}
		if left.Load() > 0 {
			t.Errorf("%s: %d of %d writes of the metadata had yet to fail", errnoName(errno),
				left.Load(), failing)
		}
		st := s.Status(t)
		if st.Breaker.State != "closed" || st.Remaps != before.Remaps+1 {
			t.Errorf("%s: breaker %s (%s), %d remaps, there were %d", errnoName(errno),
				st.Breaker.State, st.Breaker.Reason, st.Remaps, before.Remaps)
		}
		for _, m := range st.Metadata.Mirrors {
			if m.State != "good" {
				t.Errorf("%s: the mirror %s is %s", errnoName(errno), m.Location, m.State)
			}
		}
	}
	v.cure(t)
	recoverAll(t, s, l)
}

// newestRecords returns where the newest record lies, on every mirror of the backing.
func newestRecords(t testing.TB, s *rig.Set, lay rig.Layout) (out []rig.Extent) {
	var dump struct {
		Mirrors []struct {
			Device  int   `json:"device"`
			Start   int64 `json:"start"`
			Records []struct {
				Slot     int64             `json:"slot"`
				Position metadata.Position `json:"position"`
			} `json:"records"`
		} `json:"mirrors"`
	}
	rig.Parse(t, rig.Remap(t, "metadata", "dump", s.Path), &dump)
	for _, m := range dump.Mirrors {
		var newest metadata.Position
		slot := int64(-1)
		for _, r := range m.Records {
			if newest.Less(r.Position) {
				newest, slot = r.Position, r.Slot
			}
		}
		if slot >= 0 && m.Device == 0 {
			out = append(out, rig.Extent{Start: m.Start + lay.LogAt + slot*lay.Atom,
				Length: lay.Atom})
		}
	}
	return out
}

// TestStartOverBadPath: a server dies after it has acknowledged a heal, and the next start cannot
// read the record that says so, on any mirror, because the path fails. If the path comes back while
// the start tries, the heal is there. If not, the start is refused with exit code 1 and nothing is
// lost: the next start finds the heal.
func TestStartOverBadPath(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	rig.Guard(t, 6*time.Minute)
	v := newServed(t)
	s := rig.Create(t, v.path, "", "--spare", "1MiB")
	lay := rig.LayoutOf(t, v.path)
	s.Start(t, "--queues", "1")
	l := newLedger(t, s.Dev, dataSize)
	var bad []rig.Extent
	for i, forever := range []bool{false, true} {
		bad = append(bad, rig.Extent{Start: lay.Head + int64(i)<<18, Length: unit})
		homes := append([]rig.Extent(nil), bad...)
		var left atomic.Int64
		failing := func(away []rig.Extent) answer {
			return func(write bool, e rig.Extent) syscall.Errno {
				for _, b := range homes {
					if write && e.Overlaps(b) {
						return syscall.EIO
					}
				}
				for _, a := range away {
					if !write && e.Overlaps(a) && left.Add(-1) >= 0 {
						return syscall.ENOLINK
					}
				}
				return 0
			}
		}
		v.say(failing(nil))
		if err := l.write(bad[i].Start, unit); err != nil {
			t.Fatalf("write of a sector that takes no writes: %v", err)
		}
		remaps := s.Status(t).Remaps
		s.Kill(t)
		away := newestRecords(t, s, lay)
		if len(away) != 2 {
			t.Fatalf("newest records at %v, want two", away)
		}
		if left.Store(6); forever {
			left.Store(1 << 40)
			v.say(failing(away))
			r := rig.Remap(t, "start", s.Path)
			if r.Code != 1 || !strings.Contains(r.Stderr, "path") || strings.Contains(r.Stderr,
				"damaged") {
				t.Fatalf("start while records cannot be read: want exit code 1 and the path\n%s", r)
			}
			left.Store(0)
		}
		v.say(failing(away))
		s.Start(t)
		if left.Load() > 0 {
			t.Errorf("%d reads had yet to fail", left.Load())
		}
		if got := s.Status(t).Remaps; got != remaps {
			t.Errorf("%d remaps after the start, there were %d", got, remaps)
		}
	}
	v.cure(t)
	recoverAll(t, s, l)
}
