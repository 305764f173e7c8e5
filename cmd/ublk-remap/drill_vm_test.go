package main

import (
	"os"
	"os/exec"
	"slices"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestDrill: a drill on a device with a mounted file system passes, and leaves nothing but lines in
// the flight recorder. It is refused while the breaker is open.
func TestDrill(t *testing.T) {
	vmtest.OnOneKernel(t)
	disk := newDisk(t, 512)
	rng := rig.Random(t)
	dev := rig.StartDevice(t, disk)
	vmtest.Mkfs(t, "ext4", dev)
	dir := vmtest.Mount(t, "ext4", dev)
	tree := rig.PlantTree(t, dir, rng)
	before := rig.StatusOf(t, dev)

	var plan, d drilled
	parseJSON(t, rig.Want(t, 0, "drill", dev, "--dry-run", "--json").Stdout, &plan)
	if plan.Passed || !plan.DryRun || len(plan.Steps) != 4 {
		t.Errorf("%+v", plan)
	}
	parseJSON(t, rig.Want(t, 0, "drill", "life", "--json").Stdout, &d)
	names := []string{}
	for _, s := range d.Steps {
		if s.Result != "ok" || s.Detail == "" {
			t.Errorf("%+v", s)
		}
		names = append(names, s.Name)
	}
	if !d.Passed || !slices.Equal(names, []string{"heal", "restore", "restart", "heal"}) {
		t.Errorf("%+v", d)
	}
	after := rig.StatusOf(t, dev)
	if after.ServerPID == before.ServerPID || after.Spare.Used != before.Spare.Used ||
		after.Spare.Free != before.Spare.Free || after.Remaps != 0 || after.Pending != 0 ||
		after.State != "live" {
		t.Errorf("before %+v, after %+v", before, after)
	}
	tree.Verify(t, dir)
	got := whats(eventsOf(t, dev))
	if n := len(got); n < 3 || got[n-1] != "drill" || !slices.Contains(got, "leave") {
		t.Errorf("%q", got)
	}
	if text := rig.Want(t, 0, "drill", dev, "--no-restart").Stdout; len(text) == 0 {
		t.Error("nothing for people")
	}
	// A drill whose steps cannot be printed ends, and the flight recorder says that it did.
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	cmd := exec.Command("ublk-remap", "drill", dev, "--no-restart")
	cmd.Stdout = full
	if err := cmd.Run(); err == nil {
		t.Error("a drill to a full disk exits 0")
	}
	if all := eventsOf(t, dev); all[len(all)-1].Done != "failed" {
		t.Errorf("%+v", all[len(all)-1])
	}
	vmtest.Unmount(t, dir)
	rig.Want(t, 0, "stop", "life")
	rig.Want(t, 0, "metadata", "check", disk)
	rig.Want(t, exit.NotFound, "drill", "life")
}

// TestDrillUnderLoad: drills beside a program that writes and verifies all the time, some of which
// die with their server in the middle, harm nobody and leave no spare unit in use.
func TestDrillUnderLoad(t *testing.T) {
	vmtest.OnOneKernel(t)
	if testing.Short() {
		t.Skip("several drills under fio")
	}
	disk := newDisk(t, 512)
	dev := rig.StartDevice(t, disk)
	before := rig.StatusOf(t, dev)
	fio := rig.StartFio(t, dev, "rw=randrw", "bs=4k", "iodepth=8", "verify=crc32c",
		"verify_backlog=16", "size=16M", "time_based", "runtime=600")
	for i := range 4 {
		rig.Want(t, 0, "drill", dev)
		if i%2 == 1 {
			continue
		}
		p := rig.LaunchCmd(t, exec.Command(vmtest.Binary(t), "drill", dev, "--no-restart"))
		rig.Until(t, "the beginning of the drill", func() bool {
			rows := whats(eventsOf(t, dev))
			return p.Ended() || rows[len(rows)-1] == "drill"
		})
		rig.Kill(t, dev)
		awaitFailed(t)
		rig.Want(t, 0, "start", "life")
	}
	fio.Stop(t)
	after := rig.StatusOf(t, dev)
	if after.Spare.Used != 0 || after.Spare.Free != before.Spare.Free || after.Remaps != 0 ||
		after.Pending != 0 {
		t.Errorf("before %+v, after %+v", before.Spare, after.Spare)
	}
	rig.Want(t, 0, "stop", "life")
	rig.Want(t, 0, "metadata", "check", disk)
}
