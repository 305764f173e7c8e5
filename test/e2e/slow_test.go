package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestBadReadsLeaveRoom: a program reads a bad sector with more requests than a queue has tags, and
// the disk takes hours over each. Reads of good blocks end all the same, and a status says what is
// slow. Nothing here depends on how long anything takes: what hangs does so until it is let go.
func TestBadReadsLeaveRoom(t *testing.T) {
	vmtest.NeedUblk(t)
	vmtest.OnOneKernel(t)
	for _, zc := range paths() {
		t.Run(pathName(zc), func(t *testing.T) { testBadReadsLeaveRoom(t, zc) })
	}
}

func testBadReadsLeaveRoom(t *testing.T, zeroCopy bool) {
	rig.Guard(t, 4*time.Minute)
	vmtest.Modprobe(t, "dm-delay")
	const size, at, bad, hours = 64 << 20, 24 << 20, 4096, 5 * 3600 * 1000
	const depth, readers, good = 32, 96, 200
	lower := vmtest.NewLoop(t, size, vmtest.LoopOptions{})
	dead := vmtest.NewDM(t, "0 8 error\n")
	disk := vmtest.NewDM(t, vmtest.LinearTable(t, lower))
	list := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(list, []byte(fmt.Sprintf("%d 8\n", at/512)), 0o600); err != nil {
		t.Fatal(err)
	}
	s := rig.Create(t, disk.Path, "", "--spare", "1MiB", "--badblocks", list, "--badblocks-size",
		"512")
	s.CheckAtEnd(t)
	// Reads of these sectors hang, and fail when they are let go.
	disk.Swap(t, fmt.Sprintf("0 %d linear %s 0\n%d 8 delay %s 0 %d %s %d 0\n%d %d linear %s %d\n",
		at/512, lower, at/512, dead.Path, hours, lower, at/512, at/512+8, size/512-at/512-8, lower,
		at/512+8))
	letGo := sync.OnceFunc(func() {
		disk.Swap(t, vmtest.ErrorTable(t, lower, vmtest.Extent{Start: at / 512, Count: 8}))
	})
	defer letGo()
	s.Start(t, "--queues", "1", "--depth", fmt.Sprint(depth), dataPath(zeroCopy))
	f := rig.Open(t, s.Dev)
	defer f.Close()
	answers := make(chan error, readers)
	for range readers {
		go func() { answers <- f.Read(rig.Aligned(bad), at) }()
	}
	// A quarter of the tags wait for the disk. The others are answered after a second.
	const tries = depth / 4
	for range readers - tries {
		if err := <-answers; err != syscall.EIO {
			t.Errorf("a read of a block that others try: %v", err)
		}
	}
	for i := range int64(good) {
		if err := f.Read(rig.Aligned(bad), at+bad+i*bad); err != nil {
			t.Errorf("a read of a good block: %v", err)
		}
		if err := f.Write(rig.Aligned(bad), at+bad+i*bad); err != nil {
			t.Errorf("a write of a good block: %v", err)
		}
	}
	rig.Until(t, "a status that tells of slow requests", func() bool {
		st := s.Status(t)
		return st.Requests.SlowSince != nil && st.Requests.Slow == tries &&
			st.Requests.UnderWay == tries
	})
	st := s.Status(t)
	if st.Requests.Most != depth || st.Errors.FailedFast != readers-tries || st.Pending != 8 {
		t.Errorf("requests %+v, errors %+v, %d pending", st.Requests, st.Errors, st.Pending)
	}
	// A large request does not change how large requests can be now: the kernel would let requests
	// for good blocks wait until the disk has answered those for bad ones.
	for range good {
		if err := f.Read(rig.Aligned(1<<20), 0); err != nil {
			t.Errorf("a large read of good blocks: %v", err)
		}
	}
	letGo()
	for range tries {
		if err := <-answers; err != syscall.EIO {
			t.Errorf("a read that the disk fails: %v", err)
		}
	}
	rig.Until(t, "a status without slow requests", func() bool {
		st := s.Status(t)
		return st.Requests.SlowSince == nil && st.Requests.UnderWay == 0
	})
	// A write heals the sector, although reads of it hang.
	if err := f.Write(rig.Aligned(bad), at); err != nil {
		t.Fatal(err)
	}
	if err := f.Read(rig.Aligned(bad), at); err != nil {
		t.Errorf("a read after a write: %v", err)
	}
}
