package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// paths are the ways for the data that the kernel has: copy, then zero copy.
func paths() []bool {
	if vmtest.KernelVersion().Less(zeroCopyMin) {
		return []bool{false}
	}
	return []bool{false, true}
}

// somePaths are all paths if everything is to be tested, else one of them, in
// turn.
func somePaths(turn int) []bool {
	all := paths()
	if vmtest.Full() {
		return all
	}
	return all[turn%len(all):][:1]
}

func pathName(zeroCopy bool) string {
	if zeroCopy {
		return "zerocopy"
	}
	return "copy"
}

// TestKillAndRecover kills the server while fio writes to a file system above
// a bad disk, and starts another: fio must not notice, and nothing may be lost.
func TestKillAndRecover(t *testing.T) {
	vmtest.NeedUblk(t)
	for i, w := range ways(true) {
		fs := []string{"ext4", "xfs"}[i%2]
		t.Run(w.String()+"/"+fs, func(t *testing.T) {
			if !w.zeroCopy && vmtest.Shared() && !vmtest.OnOlderKernel() {
				t.Skip("it runs on the older kernel, which has no other way")
			}
			testKillAndRecover(t, w, fs)
		})
	}
}

func testKillAndRecover(t *testing.T, w way, fs string) {
	rig.Guard(t, 5*time.Minute)
	rng := rig.Random(t)
	d := rig.NewDisk(t, rig.KindLoop, diskMiB, 512)
	s := create(t, d, "--spare", fmt.Sprintf("%dMiB", spareMiB))
	lay := rig.LayoutOf(t, d.Path)
	w.start(t, s, "--queues", "2")
	rig.Mkfs(t, fs, s.Dev)
	dir := s.Mount(t, fs)
	tree := rig.PlantTree(t, dir, rng)
	// The disk goes bad where fio is going to write: no file system can live with
	// the loss of what it has written already.
	places := rig.Reserve(t, dir+"/fio", 32<<20)
	bad := badPlaces(rng, cell{kind: rig.KindLoop, blockSize: 512}, lay)
	bad = slices.DeleteFunc(
		bad, func(e rig.Extent) bool { return len(lay.ExportedOf([]rig.Extent{e})) > 0 })
	for range 50 {
		in := places[rng.IntN(len(places))]
		n := 512 * (1 + rng.Int64N(12))
		e := rig.At(in.Start+rng.Int64N(in.Length/512)*512, n)
		bad = append(bad, lay.HomesOnBacking(e.Cut(in.Start, in.End()))...)
	}
	d.SetBad(t, bad)
	t.Logf("bad: %v", d.Bad)

	// It writes and verifies for as long as it takes; the server dies after so and so many writes,
	// which does not depend on the clock.
	job := []string{"rw=randwrite", "size=32M", "bsrange=4k-256k", "iodepth=32", "verify=crc32c",
		fmt.Sprintf("randseed=%d", rng.Uint32())}
	p := rig.StartFio(t, dir+"/fio", append(job, "verify_backlog=64", "loops=1000")...)
	already := s.Status(t).IO.Writes // the file system's own, before fio
	for kills := range 4 {
		before := served(t, s, p, already+40+rng.Int64N(120))
		already = 0
		s.Kill(t)
		time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
		s.Start(t)
		after := s.Status(t)
		if after.ServerPID == before.ServerPID || after.UUID != before.UUID ||
			!after.Features.Recovery {
			t.Errorf("after recovery: %+v\nbefore: %+v", after, before)
		}
		t.Logf("kill %d after %d writes: %d remaps, then %d", kills, before.IO.Writes,
			before.Remaps, after.Remaps)
	}
	served(t, s, p, 1)
	rep := p.Stop(t)
	t.Logf("fio wrote %d MiB and read %d MiB", rep.WriteBytes>>20, rep.ReadBytes>>20)
	rig.RunFio(t, dir+"/fio", job...) // all of it once more
	tree.Verify(t, dir)
	rig.Unmount(t, dir)
	rig.Fsck(t, fs, s.Dev)
	s.Restart(t)
	rig.Fsck(t, fs, s.Dev)
	dir = s.Mount(t, fs)
	tree.Verify(t, dir)
	rig.Unmount(t, dir)
}

// served waits until the server has served that many writes since it started, while fio goes on,
// and returns the status then. The writes may take long. If none is served for a while, it counts
// as hung.
func served(t testing.TB, s *rig.Set, f *rig.Fio, writes int64) rig.Status {
	t.Helper()
	last, since := int64(-1), time.Now()
	for {
		st := s.Status(t)
		if st.IO.Writes >= writes {
			return st
		}
		if st.IO.Writes != last {
			last, since = st.IO.Writes, time.Now()
		}
		if f.Ended() {
			t.Fatalf("it ended early\n%s", f.Brief())
		}
		if time.Since(since) > rig.Limit {
			rig.DumpTasks("writes are not served")
			t.Fatalf("%d writes are served, no more come", st.IO.Writes)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestKillSaturated kills the server while it owns every tag of every queue, and more requests
// wait.
func TestKillSaturated(t *testing.T) {
	vmtest.NeedUblk(t)
	for _, w := range ways(true) {
		t.Run(w.String()+"/start", func(t *testing.T) { testKillSaturated(t, w, true) })
		t.Run(w.String()+"/stop", func(t *testing.T) { testKillSaturated(t, w, false) })
	}
}

func testKillSaturated(t *testing.T, w way, recoverIt bool) {
	rig.Guard(t, 5*time.Minute)
	rng := rig.Random(t)
	d := rig.NewDisk(t, rig.KindLoop, 32, 512)
	s := create(t, d, "--spare", "1MiB")
	w.start(t, s, "--queues", "1", "--depth", "8")
	// The disk is suspended: operations that have begun do not end before it is resumed.
	d.DM.Suspend(t)
	p := rig.StartFio(t, s.Dev, "rw=randwrite", "size=4M", "bs=4k", "iodepth=64", "verify=crc32c",
		fmt.Sprintf("randseed=%d", rng.Uint32()))
	rig.Until(t, "all 8 tags in flight", func() bool {
		_, writes := rig.InFlight(t, s.Dev)
		return writes >= 8
	})
	s.Kill(t)
	// The dead server's own I/O has to end before the next server starts.
	time.Sleep(time.Duration(rng.IntN(500)) * time.Millisecond)
	d.DM.Resume(t)
	began := time.Now()
	if recoverIt {
		s.Start(t)
		t.Logf("live again after %v", time.Since(began).Round(time.Millisecond))
		p.Done(t)
		return
	}
	s.Stop(t)
	took := time.Since(began)
	t.Logf("gone after %v", took.Round(time.Millisecond))
	// A stop that hangs has met the limit of every verb by now. How long it took
	// says more of a busy machine than of the program.
	if r := p.Wait(t, rig.Limit); r.Code == 0 {
		t.Errorf("fio saw no error although its device went away\n%s", p.Brief())
	}
}
