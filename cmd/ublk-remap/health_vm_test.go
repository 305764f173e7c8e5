package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/health"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

func healthOf(t *testing.T, dev string) (r health.Report) {
	t.Helper()
	if err := json.Unmarshal([]byte(rig.Want(t, 0, "health", dev, "--json").Stdout),
		&r); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestHealth: the verdict follows what the server sees and what the drive says.
func TestHealth(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	lower := vmtest.NewLoop(t, 64<<20, vmtest.LoopOptions{})
	disk := vmtest.NewDM(t, vmtest.LinearTable(t, lower))
	rig.Want(t, 0, "create", disk.Path, "--name", "sick", "--spare", "1MiB")
	dev := rig.StartDevice(t, disk.Path)
	if r := healthOf(t, dev); r.Verdict != health.Unknown || len(r.Reasons) == 0 ||
		r.SpareDays != nil || r.RatePerDay != 0 {
		t.Errorf("nothing is known: %+v", r)
	}
	// remap add is no failure of the disk.
	rig.Want(t, 0, "remap", "add", dev, "100")
	if r := healthOf(t, dev); r.Verdict != health.Unknown {
		t.Errorf("after remap add: %+v", r)
	}
	const at = 8 << 20
	f := rig.Open(t, dev)
	defer f.Close()
	disk.Swap(t, vmtest.ErrorTable(t, lower, vmtest.Extent{Start: at/512 + 2048, Count: 8}))
	for off := int64(at); off < at+4<<20; off += 1 << 20 {
		if err := f.Write(rig.Aligned(1<<20), off); err != nil {
			t.Fatal(err)
		}
	}
	st := rig.StatusOf(t, dev)
	if st.Remaps < 2 {
		t.Fatalf("%d remaps: the bad block was not met", st.Remaps)
	}
	r := healthOf(t, dev)
	if r.Verdict != health.Watch || r.SpareDays == nil || r.RatePerDay <= 0 ||
		r.Pattern.Kind != health.PatternFew {
		t.Errorf("after a bad block: %+v", r)
	}
	text := rig.Want(t, 0, "health", "sick").Stdout
	if !strings.Contains(text, "watch: look again often") || !strings.Contains(text, dev) {
		t.Errorf("%s", text)
	}
	rig.Kill(t, dev)
	if r := healthOf(t, dev); r.Verdict != health.Unknown {
		t.Errorf("without a server: %+v", r)
	}
	rig.Want(t, 0, "start", "sick")
	f.Close()
	rig.Want(t, 0, "stop", "sick")
	rig.Want(t, exit.NotFound, "health", "sick")
	rig.Want(t, exit.Usage, "health")
}

// TestHealthOfADrive: what smartctl says of the disk below is part of the verdict.
func TestHealthOfADrive(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	disk := vmtest.NewNullBlk(t, vmtest.NullBlkOptions{}).Path
	dir := t.TempDir()
	script := "#!/bin/sh\necho '{\"smart_status\": {\"passed\": false}}'\nexit 8\n"
	if err := os.WriteFile(filepath.Join(dir, "smartctl"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	rig.Want(t, 0, "create", disk, "--name", "failing", "--spare", "1MiB")
	dev := rig.StartDevice(t, disk)
	r := healthOf(t, dev)
	if r.Verdict != health.ReplaceNow || r.Smart == nil || len(r.Drives) != 1 ||
		!strings.Contains(r.Reasons[0], "fails") {
		t.Errorf("%+v", r)
	}
	rig.Want(t, 0, "stop", "failing")
}
