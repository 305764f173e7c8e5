package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ublkremap/internal/control"
	"ublkremap/test/vmtest"
)

// TestEndMarksStayAbove: what marks a disk at its end, written through the device,
// is there for whoever reads the device, and not on the disk below, from which other
// tools would assemble it.
func TestEndMarksStayAbove(t *testing.T) {
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	const size = 96 << 20
	disk := vmtest.NewLoop(t, size, vmtest.LoopOptions{})
	spare := vmtest.NewLoop(t, 16<<20, vmtest.LoopOptions{})
	want(t, 0, "create", disk, "--name", "ends", "--spare-device", spare)
	dev := startDevice(t, disk)
	marks := endMarks(size)
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for at, b := range marks {
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	kill(t, dev)
	want(t, 0, "start", "ends")
	if found := endMarksOf(t, dev); len(found) != len(marks) {
		t.Errorf("the device shows %v", found)
	}
	want(t, 0, "stop", "ends")
	if found := endMarksOf(t, disk); len(found) > 0 {
		t.Errorf("found on the disk: %v", found)
	}
	want(t, 0, "metadata", "check", disk)
	// Given back, the disk has them.
	want(t, 0, "release", disk, "--yes")
	b, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	for at, m := range marks {
		if !bytes.Equal(b[at:at+int64(len(m))], m) {
			t.Errorf("given back, the disk lacks %q at %d", m, at)
		}
	}
}

// TestOldEndIsToldAtStart: start, and the log of the server, say of a set that an older
// version made what is found at the end of its disk.
func TestOldEndIsToldAtStart(t *testing.T) {
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	const size = 96 << 20
	disk := vmtest.NewLoop(t, size, vmtest.LoopOptions{})
	spare := vmtest.NewLoop(t, 16<<20, vmtest.LoopOptions{})
	oldSet(t, disk, spare, 512)
	const told = "at the end of the disk itself"
	for _, marked := range []bool{false, true} {
		r := want(t, 0, "start", disk)
		if strings.Contains(r.err, told) != marked {
			t.Errorf("marked %v: %s", marked, r.err)
		}
		log, err := os.ReadFile(filepath.Join(control.Dir(), "old.log"))
		if err != nil || strings.Contains(string(log), told) != marked {
			t.Errorf("marked %v, %v: %s", marked, err, log)
		}
		dev := strings.TrimSpace(r.out)
		f, err := os.OpenFile(dev, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		for at, b := range endMarks(size) {
			if _, err := f.WriteAt(b, at); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		f.Close()
		want(t, 0, "stop", "old")
	}
}
