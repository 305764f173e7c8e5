package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// The spare region is a part of the same failing disk: these tests make it bad, or nearly
// too small.

// TestSparesThatFail: of eight spare units seven take no write. Every write to a bad block
// finds one that does, and the breaker stays closed.
func TestSparesThatFail(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	rig.Guard(t, 2*time.Minute)
	const bs, seed = 512, 4
	d := rig.NewDisk(t, rig.KindLoop, 64, bs)
	s := create(t, d, "--spare", "2MiB")
	lay := rig.LayoutOf(t, d.Path)
	var bad []rig.Extent
	for at := lay.Spare().Start; at < lay.Spare().End(); at += 8 * 4096 {
		bad = append(bad, rig.At(at, min(7*4096, lay.Spare().End()-at)))
	}
	// The disk is taken as it is, with a warning.
	d.SetBad(t, bad)
	rig.Remap(t, "create", d.Path, "--name", s.Name, "--yes", "--force", "--spare", "2MiB").Want(t,
		rig.ExitDone)
	if now := rig.LayoutOf(t, d.Path); now.Spare() != lay.Spare() {
		t.Fatalf("the spare region moved from %v to %v", lay.Spare(), now.Spare())
	}
	s.Start(t)
	f := rig.Open(t, s.Dev)
	defer func() { f.Close() }()
	f.Fill(t, 0, f.Size, seed)
	places := []int64{0, 400 << 10, 2 << 20, 10 << 20, 20 << 20}
	for _, at := range places {
		bad = append(bad, rig.At(lay.Head+at, 4096))
	}
	d.SetBad(t, bad)
	for _, at := range places {
		f.Fill(t, lay.Head+at, lay.Head+at+4096, seed)
	}
	if st := s.Status(t); st.Breaker.State != "closed" || st.Spare.Used != int64(len(places)) ||
		st.Lost != 0 || st.Pending != 0 {
		t.Errorf("spare %+v, breaker %+v, %d lost, %d pending", st.Spare, st.Breaker, st.Lost,
			st.Pending)
	}
	f.Survey(t, 0, f.Size, bs, seed, 0)
	f.Close()
	s.Restart(t)
	f = rig.Open(t, s.Dev)
	f.Survey(t, 0, f.Size, bs, seed, 0)
}

// TestSparesThatDoNotRead: spare units that take a write and do not read it. Data that is
// moved there stays readable, and goes home again; so does what a write put there.
func TestSparesThatDoNotRead(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	for _, bs := range []int64{512, 4096} {
		t.Run(fmt.Sprint(bs), func(t *testing.T) { testSparesThatDoNotRead(t, bs) })
	}
}

func testSparesThatDoNotRead(t *testing.T, bs int64) {
	rig.Guard(t, 2*time.Minute)
	const seed = 5
	d, s, lay := rig.Serve(t, rig.KindScsi, 64, bs, "2MiB")
	f := rig.Open(t, s.Dev)
	defer func() { f.Close() }()
	f.Fill(t, 0, f.Size, seed)
	// The first spare units, which are the next to be used, and a block at home.
	d.SetBad(t, []rig.Extent{rig.At(lay.Spare().Start, 16*4096), rig.At(lay.Head+8<<20, 4096)})
	at := lay.Head + 4<<20
	where := fmt.Sprintf("%d+%d", at/bs, 4*4096/bs)
	rig.Remap(t, "remap", "add", s.Dev, where).Want(t, rig.ExitDone)
	look := func(what string) {
		t.Helper()
		if unread := f.Survey(t, 0, lay.Head+8<<20, bs, seed, d.ReadErrno()); len(unread) > 0 {
			t.Errorf("%s: unreadable: %v", what, unread)
		}
		f.Survey(t, lay.Head+8<<20+4096, f.Size, bs, seed, 0)
	}
	look("after remap add")
	// A read notes the block, and the write that follows goes to a spare unit.
	if err := f.Read(rig.Aligned(4096), lay.Head+8<<20); err != d.ReadErrno() {
		t.Errorf("read of the bad block: %v", err)
	}
	f.Fill(t, lay.Head+8<<20, lay.Head+8<<20+4096, seed)
	f.Survey(t, 0, f.Size, bs, seed, 0)
	if rows := s.Remaps(t); !covered(rows, at/bs, (at+4*4096)/bs) {
		t.Errorf("remap list: %+v", rows)
	}
	rig.Remap(t, "remap", "remove", s.Dev, where).Want(t, rig.ExitDone)
	f.Survey(t, 0, f.Size, bs, seed, 0)
	f.Close()
	s.Restart(t)
	f = rig.Open(t, s.Dev)
	f.Survey(t, 0, f.Size, bs, seed, 0)
	if st := s.Status(t); st.Breaker.State != "closed" || st.Lost != 0 || st.Pending != 0 {
		t.Errorf("breaker %+v, %d lost, %d pending", st.Breaker, st.Lost, st.Pending)
	}
}

// TestDeadZone: a list names a zone of the disk as bad, as large as twice the spare region.
// Every other unit of it is written, in random order, until there is no spare unit left;
// and the set starts again.
func TestDeadZone(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	rig.Guard(t, 4*time.Minute)
	const bs, unit = 4096, 4096
	// There are so many that a table with two entries for each of them would not fit.
	const spares = (24 << 20) / unit
	d := rig.NewDisk(t, rig.KindLoop, 192, bs)
	const first = 40 << 20
	list := filepath.Join(t.TempDir(), "bad")
	text := fmt.Appendf(nil, "%d+%d\n", first/bs, 2*spares)
	if err := os.WriteFile(list, text, 0o600); err != nil {
		t.Fatal(err)
	}
	s := create(t, d, "--spare", "24MiB", "--badblocks", list, "--badblocks-size", fmt.Sprint(bs))
	s.Start(t)
	f := rig.Open(t, s.Dev)
	defer func() { f.Close() }()
	order := rand.New(rand.NewPCG(2, 2)).Perm(spares)
	const writers = 16
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			buf := rig.Aligned(unit)
			for n := w; n < spares; n += writers {
				at := first + 2*int64(order[n])*unit
				rig.Pattern(buf, at, 6)
				if err := f.Write(buf, at); err != nil {
					t.Errorf("write %d, at %d: %v", n, at, err)
					return
				}
			}
		})
	}
	all.Wait()
	st := s.Status(t)
	if st.Spare.Free != 0 || st.Spare.Used != spares || st.Breaker.State != "closed" {
		t.Errorf("spare %+v, breaker %+v", st.Spare, st.Breaker)
	}
	f.Close()
	s.Restart(t)
	f = rig.Open(t, s.Dev)
	buf := rig.Aligned(unit)
	for i := range int64(spares) {
		if err := f.Read(buf, first+2*i*unit); err != nil {
			t.Fatal(err)
		}
		rig.WantPattern(t, buf, first+2*i*unit, 6)
	}
}
