package e2e

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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
		t.Run(w.String()+"/"+fs, func(t *testing.T) { testKillAndRecover(t, w, fs) })
	}
}

func testKillAndRecover(t *testing.T, w way, fs string) {
	guard(t, 5*time.Minute)
	rng := random(t)
	d := newDisk(t, kindLoop, diskMiB, 512)
	s := create(t, d, "--spare", fmt.Sprintf("%dMiB", spareMiB))
	lay := layoutOf(t, d)
	w.start(t, s, "--queues", "2")
	mkfs(t, fs, s.dev)
	dir := mount(t, fs, s)
	tree := plantTree(t, dir, rng)
	// The disk goes bad where fio is going to write: no file system can live with
	// the loss of what it has written already.
	places := fileExtents(t, dir+"/fio", 32<<20)
	bad := badPlaces(rng, cell{kind: kindLoop, blockSize: 512}, lay)
	bad = slices.DeleteFunc(
		bad, func(e extent) bool { return len(lay.exportedOf([]extent{e})) > 0 })
	for range 50 {
		in := places[rng.IntN(len(places))]
		n := 512 * (1 + rng.Int64N(12))
		e := extent{in.start + rng.Int64N(in.length/512)*512, n}
		bad = append(bad, lay.homeOf(cut(e, in.start, in.end()))...)
	}
	d.setBad(t, bad)
	t.Logf("bad: %v", d.bad)

	// It writes and verifies for as long as it takes; the server dies after so and
	// so many writes, which does not hang on the clock.
	job := []string{"rw=randwrite", "size=32M", "bsrange=4k-256k", "iodepth=32", "verify=crc32c",
		fmt.Sprintf("randseed=%d", rng.Uint32())}
	p := startFio(t, dir+"/fio", append(job, "verify_backlog=64", "loops=1000")...)
	served := s.status(t).IO.Writes // the file system's own, before fio
	for kills := range 4 {
		before := s.served(t, p, served+40+rng.Int64N(120))
		served = 0
		s.kill(t)
		time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
		s.start(t)
		after := s.status(t)
		if after.ServerPID == before.ServerPID || after.UUID != before.UUID ||
			!after.Features.Recovery {
			t.Errorf("after recovery: %+v\nbefore: %+v", after, before)
		}
		t.Logf("kill %d after %d writes: %d remaps, then %d", kills, before.IO.Writes,
			before.Remaps, after.Remaps)
	}
	s.served(t, p, 1)
	rep := fioStopped(t, p)
	t.Logf("fio wrote %d MiB and read %d MiB", rep.writeBytes>>20, rep.readBytes>>20)
	fio(t, dir+"/fio", job...) // all of it once more
	tree.verify(t, dir)
	umount(t, dir)
	fsck(t, fs, s.dev)
	s.restart(t)
	fsck(t, fs, s.dev)
	dir = mount(t, fs, s)
	tree.verify(t, dir)
	umount(t, dir)
}

// served waits until the server has served that many writes since it started,
// while the process that writes goes on, and returns the status then. Any number of
// writes may take its time; none for a while is a hang.
func (s *set) served(t testing.TB, p *process, writes int64) status {
	t.Helper()
	last, since := int64(-1), time.Now()
	for {
		st := s.status(t)
		if st.IO.Writes >= writes {
			return st
		}
		if st.IO.Writes != last {
			last, since = st.IO.Writes, time.Now()
		}
		if p.ended() {
			t.Fatalf("it ended early\n%s", brief(p.result()))
		}
		if time.Since(since) > limit {
			dumpTasks("writes are not served")
			t.Fatalf("%d writes are served, no more come", st.IO.Writes)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// fileExtents makes a file of that size whose blocks are allocated and not yet
// written, and says where on the device they are.
func fileExtents(t testing.TB, path string, size int64) []extent {
	t.Helper()
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, size), f.Sync())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var out []extent
	for _, e := range rig.Extents(t, f, size) {
		out = append(out, extent{e.Start, e.Length})
	}
	if n := blocks(out, 1); n != size {
		t.Fatalf("FIEMAP tells of %d bytes of %d: %v", n, size, out)
	}
	return out
}

// TestKillSaturated kills the server with every tag of every queue in its
// hands, and more waiting.
func TestKillSaturated(t *testing.T) {
	vmtest.NeedUblk(t)
	for _, w := range ways(true) {
		t.Run(w.String()+"/start", func(t *testing.T) { testKillSaturated(t, w, true) })
		t.Run(w.String()+"/stop", func(t *testing.T) { testKillSaturated(t, w, false) })
	}
}

func testKillSaturated(t *testing.T, w way, recoverIt bool) {
	guard(t, 5*time.Minute)
	rng := random(t)
	d := newDisk(t, kindLoop, 32, 512)
	s := create(t, d, "--spare", "1MiB")
	w.start(t, s, "--queues", "1", "--depth", "8")
	// A suspended disk: what has begun does not end before it is resumed.
	d.dm.Suspend(t)
	p := startFio(t, s.dev, "rw=randwrite", "size=4M", "bs=4k", "iodepth=64", "verify=crc32c",
		fmt.Sprintf("randseed=%d", rng.Uint32()))
	inflight := "/sys/block/" + s.dev[len("/dev/"):] + "/inflight"
	for deadline := time.Now().Add(limit); ; {
		var reads, writes int
		text, err := os.ReadFile(inflight)
		if err == nil {
			_, err = fmt.Sscan(string(text), &reads, &writes)
		}
		if err != nil {
			t.Fatal(err)
		}
		if writes >= 8 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d writes in flight, all 8 tags are wanted", writes)
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.kill(t)
	// The dead server's own I/O has to end first, whoever comes next.
	time.Sleep(time.Duration(rng.IntN(500)) * time.Millisecond)
	d.dm.Resume(t)
	began := time.Now()
	if recoverIt {
		s.start(t)
		t.Logf("live again after %v", time.Since(began).Round(time.Millisecond))
		fioDone(t, p)
		return
	}
	s.stop(t)
	took := time.Since(began)
	t.Logf("gone after %v", took.Round(time.Millisecond))
	// A stop that hangs has met the limit of every verb by now. How long it took
	// says more of a busy machine than of the program.
	if r := p.wait(t, limit); r.code == 0 {
		t.Errorf("fio saw no error although its device went away\n%s", brief(r))
	}
}
