package e2e

import (
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestSpareDevices: a spare device is found by its UUID; a clone beside it is
// refused, and once the clone is out of date it is passed over, or refused by
// name. A start that refuses leaves no device behind.
func TestSpareDevices(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	rig.Guard(t, 3*time.Minute)
	const mib = 1 << 20
	d := rig.NewDisk(t, rig.KindLoop, 48, 512)
	spare := vmtest.NewLoop(t, 16*mib, vmtest.LoopOptions{BlockSize: 512})
	clone := vmtest.NewLoop(t, 16*mib, vmtest.LoopOptions{BlockSize: 512})
	s := create(t, d, "--spare-device", spare)
	s.Start(t)
	s.Restart(t)
	s.Stop(t)
	copyDevice(t, spare, clone)
	refused := func(code int, args []string, texts ...string) {
		t.Helper()
		r := rig.Remap(t, args...)
		r.Want(t, code)
		for _, text := range texts {
			if !strings.Contains(r.Stderr, text) {
				t.Errorf("it does not say %q\n%s", text, r)
			}
		}
		if out := rig.Remap(t, "list").Want(t, rig.ExitDone); out != "" {
			t.Errorf("a device is left behind: %s", out)
		}
	}
	refused(rig.ExitRefused, []string{"metadata", "check", d.Path}, spare, clone, "--spare-device")
	refused(rig.ExitRefused, []string{"start", d.Path}, spare, clone, "--spare-device")
	s.Start(t, "--spare-device", spare)
	s.Stop(t)
	// The clone was absent from that start: only the other one counts now.
	s.Start(t, []string{}...) // found by itself
	s.Stop(t)
	refused(rig.ExitRefused, []string{"start", d.Path, "--spare-device", clone}, clone,
		"out of date",
		"epoch")
	vmtest.Run(t, "dd", "if=/dev/zero", "of="+spare, "bs=64k", "count=2", "conv=fsync")
	refused(rig.ExitRefused, []string{"start", d.Path}, clone, "out of date")
	vmtest.Run(t, "dd", "if=/dev/zero", "of="+clone, "bs=64k", "count=2", "conv=fsync")
	refused(rig.ExitNotFound, []string{"start", d.Path}, "spare device",
		"is on no block device here")
	refused(rig.ExitNotFound, []string{"start", d.Path, "--spare-device", spare}, "metadata repair")
	// Its superblocks are lost, and nothing else; the clone's mirror is old.
	refused(rig.ExitDamaged, []string{"metadata", "repair", d.Path, "--spare-device", clone,
		"--yes"},
		"newest record")
	rig.Remap(t, "metadata", "repair", d.Path, "--spare-device", spare, "--yes").Want(t,
		rig.ExitDone)
	s.Start(t)
}

func copyDevice(t testing.TB, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Sync(); err != nil {
		t.Fatal(err)
	}
}
