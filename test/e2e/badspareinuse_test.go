package e2e

import (
	"fmt"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestSparesGoBadInUse: two spare units in use get a block that fails. A user's read finds the
// first, a user's write the second. The other blocks leave both units at once: what goes bad there
// later harms nobody.
func TestSparesGoBadInUse(t *testing.T) {
	vmtest.NeedUblk(t)
	vmtest.OnOneKernel(t)
	rig.Guard(t, 2*time.Minute)
	const bs, unit, per, seed = 512, 4096, 8, 6
	d, s, lay := rig.Serve(t, rig.KindLoop, 64, bs, "2MiB")
	f := rig.Open(t, s.Dev)
	defer func() { f.Close() }()
	f.Fill(t, 0, f.Size, seed)
	read, written := lay.Head+4<<20, lay.Head+8<<20
	var old []int64 // bytes into the spare region
	for _, at := range []int64{read, written} {
		rig.Remap(t, "remap", "add", s.Dev, fmt.Sprintf("%d+%d", at/bs, per)).Want(t, rig.ExitDone)
		old = append(old, spareOf(t, s, at/bs)*bs)
	}
	first, second := lay.Spare().Start+old[0], lay.Spare().Start+old[1]
	d.SetBad(t, []rig.Extent{rig.At(first+3*bs, bs), rig.At(second, bs)})
	if err := f.Read(rig.Aligned(bs), read+3*bs); err != d.ReadErrno() {
		t.Errorf("a read of the bad block: %v", err)
	}
	f.Fill(t, written, written+bs, seed)
	rig.Until(t, "all blocks that read leave the bad spare units", func() bool {
		return spareOf(t, s, read/bs)*bs/unit != old[0]/unit &&
			spareOf(t, s, read/bs+per-1)*bs/unit != old[0]/unit &&
			spareOf(t, s, written/bs)*bs/unit != old[1]/unit &&
			spareOf(t, s, written/bs+per-1)*bs/unit != old[1]/unit
	})
	d.SetBad(t, []rig.Extent{rig.At(first, unit), rig.At(second, unit)})
	look := func(what string) {
		t.Helper()
		unread := f.Survey(t, 0, f.Size, bs, seed, d.ReadErrno())
		if len(unread) != 1 || unread[0] != rig.At(read+3*bs, bs) {
			t.Errorf("%s: these blocks do not read: %v", what, unread)
		}
		if st := s.Status(t); st.Pending != 1 || st.Lost != 0 || st.Breaker.State != "closed" {
			t.Errorf("%s: %d pending, %d lost, breaker %+v", what, st.Pending, st.Lost, st.Breaker)
		}
	}
	look("the units are bad")
	f.Close()
	s.Restart(t)
	f = rig.Open(t, s.Dev)
	look("after a restart")
	f.Fill(t, read, read+unit, seed)
	f.Survey(t, 0, f.Size, bs, seed, 0)
}

// spareOf returns the spare block in which a block lives.
func spareOf(t *testing.T, s *rig.Set, block int64) int64 {
	t.Helper()
	for _, row := range s.Remaps(t) {
		if row.Block <= block && block < row.Block+row.Count && row.Spare != nil {
			return *row.Spare + block - row.Block
		}
	}
	t.Fatalf("block %d is not in the spare region: %+v", block, s.Remaps(t))
	return 0
}
