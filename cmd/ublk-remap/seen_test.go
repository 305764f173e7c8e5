package main

import (
	"os/exec"
	"strings"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
)

// TestStoppedDiskIsSeen: other tools do not take the disks of a set that is not being served
// for empty ones.
func TestStoppedDiskIsSeen(t *testing.T) {
	useRuntimeDir(t)
	disk, spare := diskFile(t, 400<<20), diskFile(t, 16<<20)
	mustRun(t, 0, "create", disk, "--name", "seen", "--spare-device", spare)
	alone := diskFile(t, 400<<20)
	mustRun(t, 0, "create", alone, "--name", "alone")
	for _, path := range []string{disk, spare, alone} {
		if tool, err := exec.LookPath("blkid"); err == nil {
			out, err := exec.Command(tool, "-p", "-o", "export", path).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "PTTYPE=dos") ||
				strings.Contains(string(out), "PARTUUID") {
				t.Errorf("%s: blkid says %q, %v", path, out, err)
			}
		}
	}
	if tool, err := exec.LookPath("mkfs.xfs"); err == nil {
		if out, err := exec.Command(tool, "-q", alone).CombinedOutput(); err == nil ||
			!strings.Contains(string(out), "partition table") {
			t.Errorf("mkfs.xfs: %v, %s", err, out)
		}
	}
	mustRun(t, 0, "metadata", "check", alone)
	// To this program it is a set, and nothing else.
	if r := mustRun(t, exit.Refused, "create", alone); strings.Contains(r.err, "dos") {
		t.Error(r.err)
	}
	mustRun(t, 0, "release", alone, "--yes")
	if b := contents(t, alone); b[510] != 0 || b[511] != 0 {
		t.Error("given back, it still looks like one")
	}
}
