package breaker

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestTableGrows: a disk has more bad blocks, each by itself, than the table has room for at first.
// All of them are noted, because the mirrors get larger slots meanwhile; the server is killed while
// they do. Afterwards the set is in order, is started again with all of it, and can be released.
func TestTableGrows(t *testing.T) {
	vmtest.OnOneKernel(t)
	if testing.Short() {
		t.Skip("it reads thousands of bad blocks, each of which is noted durably")
	}
	vmtest.NeedUblk(t)
	rig.Guard(t, 8*time.Minute)
	v := newServed(t)
	s := rig.Create(t, v.path, "", "--spare", "1MiB")
	lay := rig.LayoutOf(t, v.path)
	s.Start(t, "--queues", "1")
	before := s.Status(t).Table
	const stride = 2 * unit
	// Every other unit of the data does not read.
	v.say(func(write bool, e rig.Extent) syscall.Errno {
		e = e.Cut(lay.Head, lay.Exported)
		if write || e.Length <= 0 {
			return 0
		}
		if bad := (e.Start + unit) / stride * stride; bad+unit > e.Start && bad < e.End() {
			return syscall.ENODATA
		}
		return 0
	})
	d := rig.Open(t, s.Dev)
	buf := rig.Aligned(32 * unit)
	bad := int64(0)
	killed := false
	reads := 0
	for off := lay.Head; off+int64(len(buf)) <= lay.Exported; off += int64(len(buf)) {
		if err := d.Read(buf, off); !errors.Is(err, syscall.ENODATA) {
			t.Fatalf("read at %d: %v", off, err)
		}
		bad += int64(len(buf)) / stride
		if reads++; killed || reads%8 != 0 {
			continue
		}
		if g := s.Status(t).Table; g.Growth != "" || g.Max > before.Max {
			killed = true
			s.Kill(t)
			s.Start(t)
		}
	}
	d.Close()
	rig.Until(t, "the mirrors are good", func() bool {
		for _, m := range s.Status(t).Metadata.Mirrors {
			if m.State != "good" {
				return false
			}
		}
		return true
	})
	st := s.Status(t)
	t.Logf("%d bad units, %d blocks pending, table %+v, %+v at first, killed %v\n%s", bad,
		st.Pending, st.Table, before, killed, rig.Remap(t, "status", s.Dev).Stdout)
	if !killed || st.Table.Max < 2*before.Max || st.Pending < bad ||
		st.Errors.NotNoted != 0 || bad < int64(before.Max) {
		t.Errorf("%+v", st)
	}
	s.Restart(t)
	if n := s.Status(t); n.Pending != st.Pending || n.Table.Max != st.Table.Max {
		t.Errorf("after a start %d blocks are pending, %d before: %+v", n.Pending, st.Pending,
			n.Table)
	}
	s.Stop(t)
	v.cure(t)
	s.Check(t)
	rig.Remap(t, "release", s.Path, "--yes").Want(t, rig.ExitDone)
}
