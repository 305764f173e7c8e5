package e2e

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"ublkremap/internal/control"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestManyDevices: all devices of a host start at once, as at boot. One server that hangs and one
// that is dead disturb no other one. Signals, as at a shutdown, and stop --all end all of them.
//
// There are 8 devices. With UBLK_REMAP_FULL there are up to 200, as many as the memory holds: make
// test-vm KERNEL=uml PKG=./test/e2e RUN=TestManyDevices TESTFLAGS=-v VM_TIMEOUT=1h VMFLAGS='-mem
// 5120'.
func TestManyDevices(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	n, limit := 8, 10*time.Minute
	if os.Getenv("UBLK_REMAP_FULL") != "" {
		const each, rest = 22 << 10, 300 << 10 // KiB, of memory
		free := rig.KiB(t, "/proc/meminfo", "MemAvailable")
		n, limit = int(min(200, max(int64(n), (free-rest)/each))), time.Hour
	}
	rig.Guard(t, limit)
	const size = 40 << 20
	lower := vmtest.NewLoop(t, int64(n)*size, vmtest.LoopOptions{})
	sets := make([]*rig.Set, n)
	for i := range sets {
		disk := vmtest.NewDM(t, fmt.Sprintf("0 %d linear %s %d\n", size/512, lower, i*(size/512)))
		sets[i] = rig.Create(t, disk.Path, "", "--spare", "1MiB")
		sets[i].CheckAtEnd(t)
	}
	before, began := rig.KiB(t, "/proc/meminfo", "MemAvailable"), time.Now()
	starts := make([]*rig.Process, n)
	for i, s := range sets {
		starts[i] = rig.Launch(t, vmtest.Binary(t), append(s.StartLine(), "--queues", "1")...)
	}
	for i, s := range sets {
		s.Started(t, starts[i].Wait(t, limit))
	}
	took := time.Since(began)
	wantStates(t, map[control.State]int{control.StateLive: n})
	t.Logf("%d devices are live after %.1f s, with %d KiB of memory each", n, took.Seconds(),
		(before-rig.KiB(t, "/proc/meminfo", "MemAvailable"))/int64(n))

	hangs, dead := sets[0], sets[1]
	stopped := int(hangs.Status(t).ServerPID)
	if err := syscall.Kill(stopped, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	dead.Kill(t)
	wantStates(t, map[control.State]int{control.StateLive: n - 2, control.StateUnreachable: 1,
		control.StateFailed: 1})
	for _, s := range sets[2:] {
		f, data, got := rig.Open(t, s.Dev), rig.Aligned(64<<10), rig.Aligned(64<<10)
		rig.Pattern(data, 4<<20, 5)
		if err := f.Write(data, 4<<20); err != nil {
			t.Errorf("%s: %v", s.Dev, err)
		}
		if err := f.Read(got, 4<<20); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s does not read what was written: %v", s.Dev, err)
		}
		f.Close()
	}
	if err := syscall.Kill(stopped, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	dead.Start(t)
	wantStates(t, map[control.State]int{control.StateLive: n})

	// One half is stopped by signals, all at once.
	began = time.Now()
	half := sets[:n/2]
	pids := make([]int, len(half))
	for i, s := range half {
		pids[i] = int(s.Status(t).ServerPID)
	}
	for i, s := range half {
		s.LetDie()
		s.Dev = ""
		if err := syscall.Kill(pids[i], syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	}
	for _, pid := range pids {
		rig.Await(t, "the end of a server", func() error {
			if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
				return fmt.Errorf("process %d: %v", pid, err)
			}
			return nil
		})
	}
	t.Logf("%d ended by signals in %.1f s", len(half), time.Since(began).Seconds())
	wantStates(t, map[control.State]int{control.StateLive: n - len(half)})
	began = time.Now()
	for _, s := range sets[n/2:] {
		s.LetDie()
		s.Dev = ""
	}
	stop := rig.Launch(t, vmtest.Binary(t), "stop", "--all")
	stop.Wait(t, limit).Want(t, rig.ExitDone)
	t.Logf("%d ended by stop --all in %.1f s", n-n/2, time.Since(began).Seconds())
	wantStates(t, map[control.State]int{})
}

// wantStates waits until list shows that many devices in each state, and no others.
func wantStates(t *testing.T, want map[control.State]int) {
	t.Helper()
	rig.Await(t, "a list with these states", func() error {
		var all []control.Item
		rig.Parse(t, rig.Remap(t, "list", "--json"), &all)
		got := map[control.State]int{}
		for _, d := range all {
			got[d.State]++
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("%v, want %v", got, want)
		}
		return nil
	})
}
