package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"ublkremap/test/vmtest"
)

// The spare region is a part of the same failing disk: these tests make it bad, or nearly
// too small.

// TestSparesThatFail: of eight spare units seven take no write. Every write to a bad block
// finds one that does, and the breaker stays closed.
func TestSparesThatFail(t *testing.T) {
	vmtest.NeedUblk(t)
	guard(t, 2*time.Minute)
	const bs, seed = 512, 4
	d := newDisk(t, kindLoop, 64, bs)
	s := create(t, d, "--spare", "2MiB")
	lay := layoutOf(t, d)
	var bad []extent
	for at := lay.spare.start; at < lay.spare.end(); at += 8 * 4096 {
		bad = append(bad, extent{at, min(7*4096, lay.spare.end()-at)})
	}
	// The disk is taken as it is, with a warning.
	d.setBad(t, bad)
	remap(t, "create", d.path, "--name", s.name, "--yes", "--force", "--spare", "2MiB").want(t,
		exitDone)
	if now := layoutOf(t, d); now.spare != lay.spare {
		t.Fatalf("the spare region moved from %v to %v", lay.spare, now.spare)
	}
	s.start(t)
	f := openUntilClosed(t, s.dev)
	defer func() { f.close() }()
	f.fill(t, 0, f.size, seed)
	places := []int64{0, 400 << 10, 2 << 20, 10 << 20, 20 << 20}
	for _, at := range places {
		bad = append(bad, extent{lay.head + at, 4096})
	}
	d.setBad(t, bad)
	for _, at := range places {
		f.fill(t, lay.head+at, lay.head+at+4096, seed)
	}
	if st := s.status(t); st.Breaker.State != "closed" || st.Spare.Used != int64(len(places)) ||
		st.Lost != 0 || st.Pending != 0 {
		t.Errorf("spare %+v, breaker %+v, %d lost, %d pending", st.Spare, st.Breaker, st.Lost,
			st.Pending)
	}
	f.survey(t, 0, f.size, bs, seed, 0)
	f.close()
	s.restart(t)
	f = openUntilClosed(t, s.dev)
	f.survey(t, 0, f.size, bs, seed, 0)
}

// TestSparesThatDoNotRead: spare units that take a write and do not read it. Data that is
// moved there stays readable, and goes home again; so does what a write put there.
func TestSparesThatDoNotRead(t *testing.T) {
	vmtest.NeedUblk(t)
	for _, bs := range []int64{512, 4096} {
		t.Run(fmt.Sprint(bs), func(t *testing.T) { testSparesThatDoNotRead(t, bs) })
	}
}

func testSparesThatDoNotRead(t *testing.T, bs int64) {
	guard(t, 2*time.Minute)
	const seed = 5
	d := newDisk(t, kindScsi, 64, bs)
	s := create(t, d, "--spare", "2MiB")
	lay := layoutOf(t, d)
	s.start(t)
	f := openUntilClosed(t, s.dev)
	defer func() { f.close() }()
	f.fill(t, 0, f.size, seed)
	// The first spare units, which are the next to be used, and a block at home.
	d.setBad(t, []extent{{lay.spare.start, 16 * 4096}, {lay.head + 8<<20, 4096}})
	at := lay.head + 4<<20
	where := fmt.Sprintf("%d+%d", at/bs, 4*4096/bs)
	remap(t, "remap", "add", s.dev, where).want(t, exitDone)
	look := func(what string) {
		t.Helper()
		if unread := f.survey(t, 0, lay.head+8<<20, bs, seed, d.readErrno()); len(unread) > 0 {
			t.Errorf("%s: unreadable: %v", what, unread)
		}
		f.survey(t, lay.head+8<<20+4096, f.size, bs, seed, 0)
	}
	look("after remap add")
	// A read notes the block, and the write that follows goes to a spare unit.
	if err := f.read(aligned(4096), lay.head+8<<20); err != d.readErrno() {
		t.Errorf("read of the bad block: %v", err)
	}
	f.fill(t, lay.head+8<<20, lay.head+8<<20+4096, seed)
	f.survey(t, 0, f.size, bs, seed, 0)
	if rows := s.remaps(t); !covered(rows, at/bs, (at+4*4096)/bs) {
		t.Errorf("remap list: %+v", rows)
	}
	remap(t, "remap", "remove", s.dev, where).want(t, exitDone)
	f.survey(t, 0, f.size, bs, seed, 0)
	f.close()
	s.restart(t)
	f = openUntilClosed(t, s.dev)
	f.survey(t, 0, f.size, bs, seed, 0)
	if st := s.status(t); st.Breaker.State != "closed" || st.Lost != 0 || st.Pending != 0 {
		t.Errorf("breaker %+v, %d lost, %d pending", st.Breaker, st.Lost, st.Pending)
	}
}

// TestDeadZone: a list names a zone of the disk as bad, as large as twice the spare region.
// Every other unit of it is written, in random order, until there is no spare unit left;
// and the set starts again.
func TestDeadZone(t *testing.T) {
	vmtest.NeedUblk(t)
	guard(t, 4*time.Minute)
	const bs, unit = 4096, 4096
	// So many that a table which told each of them twice would not fit.
	const spares = (24 << 20) / unit
	d := newDisk(t, kindLoop, 192, bs)
	const first = 40 << 20
	list := filepath.Join(t.TempDir(), "bad")
	text := fmt.Appendf(nil, "%d+%d\n", first/bs, 2*spares)
	if err := os.WriteFile(list, text, 0o600); err != nil {
		t.Fatal(err)
	}
	s := create(t, d, "--spare", "24MiB", "--badblocks", list, "--badblocks-size", fmt.Sprint(bs))
	s.start(t)
	f := openUntilClosed(t, s.dev)
	defer func() { f.close() }()
	order := rand.New(rand.NewPCG(2, 2)).Perm(spares)
	const writers = 16
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			buf := aligned(unit)
			for n := w; n < spares; n += writers {
				at := first + 2*int64(order[n])*unit
				pattern(buf, at, 6)
				if err := f.write(buf, at); err != nil {
					t.Errorf("write %d, at %d: %v", n, at, err)
					return
				}
			}
		})
	}
	all.Wait()
	st := s.status(t)
	if st.Spare.Free != 0 || st.Spare.Used != spares || st.Breaker.State != "closed" {
		t.Errorf("spare %+v, breaker %+v", st.Spare, st.Breaker)
	}
	f.close()
	s.restart(t)
	f = openUntilClosed(t, s.dev)
	buf := aligned(unit)
	for i := range int64(spares) {
		if err := f.read(buf, first+2*i*unit); err != nil {
			t.Fatal(err)
		}
		checkPattern(t, buf, first+2*i*unit, 6)
	}
}
