package e2e

import (
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"ublkremap/test/vmtest"
)

// TestSpareDevices: a spare device is found by its UUID; a clone beside it is
// refused, and once the clone is out of date it is passed over, or refused by
// name. A start that refuses leaves no device behind.
func TestSpareDevices(t *testing.T) {
	vmtest.NeedUblk(t)
	guard(t, 3*time.Minute)
	const mib = 1 << 20
	d := newDisk(t, kindLoop, 48, 512)
	spare := vmtest.NewLoop(t, 16*mib, vmtest.LoopOptions{BlockSize: 512})
	clone := vmtest.NewLoop(t, 16*mib, vmtest.LoopOptions{BlockSize: 512})
	s := create(t, d, "--spare-device", spare)
	s.start(t)
	s.restart(t)
	s.stop(t)
	copyDevice(t, spare, clone)
	refused := func(code int, args []string, texts ...string) {
		t.Helper()
		r := remap(t, args...)
		r.want(t, code)
		for _, text := range texts {
			if !strings.Contains(r.stderr, text) {
				t.Errorf("it does not say %q\n%s", text, r)
			}
		}
		if out := remap(t, "list").want(t, exitDone); out != "" {
			t.Errorf("a device is left behind: %s", out)
		}
	}
	refused(exitRefused, []string{"metadata", "check", d.path}, spare, clone, "--spare-device")
	refused(exitRefused, []string{"start", d.path}, spare, clone, "--spare-device")
	s.start(t, "--spare-device", spare)
	s.stop(t)
	// The clone was absent from that start: only the other one counts now.
	s.start(t, []string{}...) // found by itself
	s.stop(t)
	refused(exitRefused, []string{"start", d.path, "--spare-device", clone}, clone, "out of date",
		"epoch")
	vmtest.Run(t, "dd", "if=/dev/zero", "of="+spare, "bs=64k", "count=2", "conv=fsync")
	refused(exitRefused, []string{"start", d.path}, clone, "out of date")
	vmtest.Run(t, "dd", "if=/dev/zero", "of="+clone, "bs=64k", "count=2", "conv=fsync")
	refused(exitNotFound, []string{"start", d.path}, "spare device", "is on no block device here")
	refused(exitNotFound, []string{"start", d.path, "--spare-device", spare}, "metadata repair")
	// Its superblocks are lost, and nothing else; the clone's mirror is old.
	refused(exitDamaged, []string{"metadata", "repair", d.path, "--spare-device", clone, "--yes"},
		"newest record")
	remap(t, "metadata", "repair", d.path, "--spare-device", spare, "--yes").want(t, exitDone)
	s.start(t)
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
