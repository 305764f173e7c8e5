package main

import (
	"fmt"
	"testing"

	"ublkremap/internal/control"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestScrubSlow: a scrub finds the unit that takes long to read, on a disk that has one, and moves
// it if it is asked to. Nothing else is called slow.
func TestScrubSlow(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	if testing.Short() {
		t.Skip("it waits for looks at what is slow, seconds apart")
	}
	useRuntimeDir(t)
	base := rig.NewDisk(t, rig.KindLoop, 96, 512)
	sectors := vmtest.Sectors(t, base.Path)
	const slow, n = 40 << 11, 8 // at 40 MiB
	disk := vmtest.NewDM(t, fmt.Sprintf("0 %d linear %s 0\n%d %d delay %s %d 1500 %s %d 0\n"+
		"%d %d linear %s %d\n", slow, base.Path, slow, n, base.Path, slow, base.Path, slow,
		slow+n, sectors-slow-n, base.Path, slow+n))
	rig.Want(t, 0, "create", disk.Path, "--name", "life", "--spare", "2MiB")
	rig.StartDevice(t, disk.Path, rig.Unhurried)
	ended := func(st *control.ScrubStatus) bool { return st.State == "idle" }
	scrubVerb(t, "start", "life", "--rate", "1GiB")
	if st := awaitScrub(t, "the end of the pass", ended); st.Found.Slow != n || st.RelocateSlow {
		t.Errorf("%+v", st)
	}
	list := scrubVerb(t, "status", "life", "--slow").SlowBlocks
	if len(list) != 1 || list[0] != (control.Range{Block: slow, Count: n}) {
		t.Errorf("slow: %+v", list)
	}
	scrubVerb(t, "start", "life", "--rate", "1GiB", "--relocate-slow")
	st := awaitScrub(t, "the end of the second pass", ended)
	if st.Found.Slow != n || st.Relocated != n || !st.RelocateSlow ||
		len(scrubVerb(t, "status", "life", "--slow").SlowBlocks) != 0 {
		t.Errorf("%+v", st)
	}
	if st := rig.StatusOf(t, "life"); st.Remaps != 1 || st.Pending != 0 {
		t.Errorf("%+v", st)
	}
}
