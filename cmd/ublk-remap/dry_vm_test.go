package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestDryRuns: a dry run that is asked of a server changes nothing and exits as the real thing does
// after it.
func TestDryRuns(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	loop := vmtest.NewLoop(t, 96<<20, vmtest.LoopOptions{})
	dm := vmtest.NewDM(t, vmtest.LinearTable(t, loop))
	rig.Want(t, 0, "create", dm.Path, "--name", "life", "--spare", "64KiB")
	dev := rig.StartDevice(t, dm.Path)
	d := rig.Open(t, dev)
	image := filepath.Join(t.TempDir(), "image")
	rig.Run(t, "dd", "if="+dev, "of="+image, "bs=1M", "iflag=direct")

	// Eight blocks move to the spare region, and 16 become pending.
	bad := []vmtest.Extent{{Start: 80000, Count: 8}, {Start: 80800, Count: 16}}
	dm.Swap(t, vmtest.ErrorTable(t, loop, bad...))
	b := rig.Aligned(4096)
	if err := d.Write(b, 80000*512); err != nil {
		t.Fatal(err)
	}
	for _, s := range []int64{80800, 80808} {
		if err := d.Read(b, s*512); err == nil {
			t.Fatalf("sector %d reads", s)
		}
	}
	list := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(list, []byte("40000\n40400\n50000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	state := func() string {
		return rig.Want(t, 0, "remap", "list", "life").Stdout +
			rig.Want(t, 0, "events", "life").Stdout + fmt.Sprint(rig.StatusOf(t, dev).Spare)
	}
	both := func(code int, said string, args ...string) {
		t.Helper()
		before := state()
		out := rig.Want(t, code, append(args, "--dry-run")...)
		if !strings.Contains(out.Stdout+out.Stderr, said) {
			t.Errorf("%q does not say %q: %s", args, said, out)
		}
		if after := state(); after != before {
			t.Errorf("a dry run of %q changed\n%s\nto\n%s", args, before, after)
		}
		rig.Want(t, code, args...)
	}
	both(0, "would move 0 blocks to the spare region; 8 are there already", "remap", "add", "life",
		"80000+8")
	both(exit.Failed, "8 do not read and stay at home", "remap", "add", "life", "80800+8")
	both(exit.Failed, "up to 1,000 spare units, and 15 are free", "remap", "add", "life", "0+8000")
	rig.Want(t, 0, "remap", "remove", "life", "0+8000")
	both(0, "would move 0 blocks home, if they can be written there; 8 are there already", "remap",
		"remove", "life", "160+8")
	both(exit.Failed, "8 do not read and stay pending", "remap", "remove", "life", "80800+8")
	both(0, "would move 2 blocks to the spare region; 1 are there already", "remap", "add", "life",
		"80007+3")
	both(0, "would test 24 blocks", "remap", "retest", "life", "--pause", "0s")
	both(exit.Refused, "too few spare units are free for a drill", "drill", "life")
	both(0, "of 6 listed blocks 2 would become pending, 2 are known, 2 live in the spare region",
		"import", "life", list, "--format", "badblocks")
	both(0, "16 of 16 bad blocks", "fill", "life", "--from", image, "--force")
	both(0, "would read 9", "scrub", "start", "life", "--rate", "1KiB", "--interval", "168h")
	both(exit.Refused, "it is running", "scrub", "start", "life")
	rig.Want(t, 0, "scrub", "stop", "life")

	// An import says why blocks stay at home.
	many := ""
	for i := range 40 {
		many += fmt.Sprintln(50000 + 10*i)
	}
	if err := os.WriteFile(list, []byte(many), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := rig.Want(t, exit.Failed, "import", "life", list, "--format",
		"badblocks"); !strings.Contains(r.Stderr, "(no spare unit is free)") {
		t.Errorf("%s", r)
	}
	rig.Want(t, 0, "remap", "remove", "life", "100000+900")

	// Nothing of it can be done while the breaker is open.
	dm.Swap(t, vmtest.ErrorTable(t, loop, vmtest.Extent{Start: 0, Count: 96 << 20 / 512}))
	_ = d.Write(b, 90000*512)
	rig.Until(t, "an open breaker", func() bool {
		return rig.StatusOf(t, dev).Breaker.State == "open"
	})
	changes := [][]string{{"remap", "add", "life", "160+8"}, {"remap", "remove", "life", "80000+8"},
		{"remap", "retest", "life"}, {"remap", "clear", "life", "--yes"},
		{"import", "life", list, "--format", "badblocks"}}
	for _, args := range changes {
		both(exit.Failed, "the breaker is open", args...)
	}
	both(exit.Refused, "it is tripped", "drill", "life")

	d.Close()
	rig.Kill(t, dev)
	awaitFailed(t)
	for _, args := range append(changes, []string{"drill", "life"},
		[]string{"scrub", "start", "life"}, []string{"fill", "life", "--from", image}) {
		rig.Want(t, exit.Failed, append(args, "--dry-run")...)
		rig.Want(t, exit.Failed, args...)
	}
	rig.Want(t, 0, "stop", "--force", "life")
}
