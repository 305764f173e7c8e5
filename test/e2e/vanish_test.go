package e2e

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestVanished takes the whole disk away under load: nothing may be remapped,
// and when the disk is back everything must be as it was.
func TestVanished(t *testing.T) {
	vmtest.NeedUblk(t)
	for _, zc := range paths() {
		t.Run(pathName(zc), func(t *testing.T) { testVanished(t, zc) })
	}
}

func testVanished(t *testing.T, zeroCopy bool) {
	rig.Guard(t, 4*time.Minute)
	d, s, lay := rig.Serve(t, rig.KindLoop, 64, 512, "4MiB", "--queues", "2", dataPath(zeroCopy))
	const seed = 3
	f := rig.Open(t, s.Dev)
	defer func() { f.Close() }()
	f.Fill(t, 0, f.Size, seed)
	// Some remaps from before, in the data and in the displaced head.
	d.SetBad(t, []rig.Extent{rig.At(lay.Head+1<<20, 8192), rig.At(lay.HeadAt().Start+4096, 512)})
	f.Fill(t, lay.Head+1<<20, lay.Head+1<<20+8192, seed)
	f.Fill(t, 4096, 8192, seed)
	before := s.Status(t)
	if before.Spare.Used != 3 || before.Breaker.State != "closed" {
		t.Fatalf("before: spare %+v, breaker %+v", before.Spare, before.Breaker)
	}

	d.Vanish(t)
	// Several writers and readers at once, each at its own places.
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[string]int{}
	for w := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			buf := rig.Aligned(64 << 10)
			for i := range 24 {
				n := int64(4096) << (i % 5)
				off := int64(w)*(5<<20) + int64(i)*(128<<10)
				var err error
				op := "write"
				if w%4 == 3 {
					op = "read"
					err = f.Read(buf[:n], off)
				} else {
					rig.Pattern(buf[:n], off, seed)
					err = f.Write(buf[:n], off)
				}
				mu.Lock()
				got[fmt.Sprintf("%s: %v", op, err)]++
				mu.Unlock()
			}
		}()
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	rig.WaitFor(t, done, "I/O to a vanished disk")
	for _, op := range []string{"read", "write"} {
		delete(got, fmt.Sprintf("%s: %v", op, syscall.EIO))
	}
	if len(got) > 0 {
		t.Errorf("on a vanished disk every request is to fail with its own error, EIO; but: %v",
			got)
	}
	st := s.Status(t)
	if st.Spare.Used != before.Spare.Used || st.Spare.Free != before.Spare.Free ||
		st.Remaps != before.Remaps {
		t.Errorf("the vanished disk used up spares: %+v, remaps %d; before: %+v, %d", st.Spare,
			st.Remaps, before.Spare, before.Remaps)
	}
	if st.Breaker.State != "open" || st.Breaker.Reason == "" || st.State != "tripped" {
		t.Errorf("state %s, breaker %+v; want tripped, and a reason", st.State, st.Breaker)
	}
	f.Close()
	s.Stop(t)

	d.Back(t)
	s.Start(t)
	st = s.Status(t)
	if st.Remaps != before.Remaps || st.Spare.Used != before.Spare.Used ||
		st.Breaker.State != "closed" || st.Lost != 0 {
		t.Errorf("when the disk is back: spare %+v, remaps %d, lost %d, breaker %+v", st.Spare,
			st.Remaps, st.Lost, st.Breaker)
	}
	f = rig.Open(t, s.Dev)
	if bad := f.Survey(t, 0, f.Size, 512, seed, syscall.EIO); len(bad) > 0 {
		t.Logf("do not read since the disk was away: %v", bad)
		// Marked pending while it was away: written, they must be fine again.
		for _, e := range bad {
			f.Fill(t, e.Start, e.End(), seed)
		}
	}
	if bad := f.Survey(t, 0, f.Size, 512, seed, syscall.EIO); len(bad) > 0 {
		t.Errorf("do not read: %v", bad)
	}
}

// TestSpareFull runs out of spare units: later heals fail, earlier ones stay.
func TestSpareFull(t *testing.T) {
	vmtest.NeedUblk(t)
	vmtest.OnOneKernel(t)
	rig.Guard(t, 4*time.Minute)
	const units, blockSize = 16, 512
	d, s, lay := rig.Serve(t, rig.KindLoop, 32, blockSize, fmt.Sprintf("%dKiB", units*4),
		"--queues", "2")
	f := rig.Open(t, s.Dev)
	defer func() { f.Close() }()
	f.Fill(t, 0, f.Size, 1)
	// 24 units with a bad block each.
	var bad []rig.Extent
	at := func(i int) int64 { return lay.Head + int64(i)*(256<<10) }
	for i := range units + 8 {
		bad = append(bad, rig.At(at(i)+512, 512))
	}
	d.SetBad(t, bad)
	buf := rig.Aligned(16 << 10)
	write := func(i int, seed uint64) error {
		rig.Pattern(buf, at(i), seed)
		return f.Write(buf, at(i))
	}
	read := func(i int, seed uint64) {
		t.Helper()
		if err := f.Read(buf, at(i)); err != nil {
			t.Errorf("read of remap %d: %v", i, err)
			return
		}
		rig.WantPattern(t, buf, at(i), seed)
	}
	for i := range units {
		if err := write(i, 2); err != nil {
			t.Fatalf("write %d of %d: %v", i, units, err)
		}
	}
	if st := s.Status(t); st.Spare.Total != units || st.Spare.Used != units || st.Spare.Free != 0 ||
		st.Remaps != units {
		t.Errorf("spare %+v, remaps %d; all %d units are to be used", st.Spare, st.Remaps, units)
	}
	for i := units; i < len(bad); i++ {
		if err := write(i, 2); err != syscall.EIO {
			t.Errorf("write %d without a spare unit: %v, want its own error, EIO", i, err)
		}
	}
	check := func() {
		t.Helper()
		for i := range units {
			read(i, 2)
		}
		// Nothing else is touched: good blocks are written and read as usual.
		for i := units; i < len(bad); i++ {
			if err := write(i, 3); err != syscall.EIO {
				t.Errorf("write %d without a spare unit: %v, want EIO", i, err)
			}
			f.Fill(t, at(i)+1024, at(i)+5120, 4)
			if err := f.Read(buf[:4096], at(i)+1024); err != nil {
				t.Errorf("read of good blocks: %v", err)
			}
			rig.WantPattern(t, buf[:4096], at(i)+1024, 4)
			if err := f.Read(buf[:512], at(i)+512); err != syscall.EIO {
				t.Errorf("read of a bad block that has no spare: %v, want EIO", err)
			}
		}
	}
	check()
	// A remapped block is written again in its place.
	if err := write(3, 2); err != nil {
		t.Errorf("write to a remap: %v", err)
	}
	f.Close()
	s.Restart(t)
	f = rig.Open(t, s.Dev)
	check()
	if st := s.Status(t); st.Spare.Used != units || st.Remaps != units ||
		st.Breaker.State != "closed" {
		t.Errorf("spare %+v, remaps %d, breaker %+v: a full spare region is no reason to trip",
			st.Spare, st.Remaps, st.Breaker)
	}
}
