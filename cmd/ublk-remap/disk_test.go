package main

import (
	"os"
	"path/filepath"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
)

// TestDiskByName: the verbs for the disk of a set that nobody serves take its name and its UUID,
// and a file of the working directory whatever is on it.
func TestDiskByName(t *testing.T) {
	useRuntimeDir(t)
	disk := diskFile(t, 64<<20)
	var c created
	parseJSON(t, mustRun(t, 0, "create", disk, "--name", "called", "--json").out, &c)
	r := control.Record{Name: "called", UUID: c.UUID, ID: 1<<20 - 1, Device: "/dev/ublkb1048575",
		Backing: disk}
	must(t, r.Write())
	backup := filepath.Join(t.TempDir(), "backup")
	for _, args := range [][]string{
		{"metadata", "check", "called"}, {"metadata", "dump", "called"},
		{"metadata", "backup", "called", backup}, {"metadata", "repair", "called", "--dry-run"},
		{"metadata", "restore", "called", backup, "--dry-run"},
		{"export", "called", "--format", "csv"}, {"release", "called", "--dry-run"},
	} {
		mustRun(t, 0, args...)
	}
	t.Chdir(t.TempDir())
	must(t, os.WriteFile("plain", make([]byte, 1<<20), 0o600))
	mustRun(t, exit.NotFound, "metadata", "check", "plain")
	mustRun(t, exit.NotFound, "metadata", "check", "missing")
}
