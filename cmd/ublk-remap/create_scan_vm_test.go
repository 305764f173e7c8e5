package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestCreateScan: on a disk with bad sectors everywhere, the device that create --scan makes has no
// block that cannot be read. So blkid, blkdiscard and mkfs, which probe before they write, work as
// on a good disk. Without --scan blkdiscard fails there.
func TestCreateScan(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	const size = 48 << 20
	loop := vmtest.NewLoop(t, size, vmtest.LoopOptions{})
	var plan created
	parseJSON(t, rig.Want(t, 0, "create", loop, "--dry-run", "--json").Stdout, &plan)
	end := plan.SizeBytes / 512
	spare := end + plan.HeadBytes/512
	bad := []vmtest.Extent{
		// mirror A or its room, data, and the end of the data, where blkid looks
		{Start: 100, Count: 8},
		{Start: 50000, Count: 3}, {Start: 50016, Count: 9}, {Start: 60001, Count: 1},
		{Start: end - 136, Count: 16}, {Start: end - 8, Count: 1},
		// displaced head, spare units
		{Start: end + 16, Count: 8}, {Start: spare, Count: 8}, {Start: spare + 80, Count: 1},
	}
	dm := vmtest.NewDM(t, vmtest.ErrorTable(t, loop, bad...))
	list := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(list, []byte("70000 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	rig.Want(t, exit.Usage, "create", dm.Path, "--scan", "--in-place")
	before, err := os.ReadFile(loop)
	if err != nil {
		t.Fatal(err)
	}
	parseJSON(t, rig.Want(t, 0, "create", dm.Path, "--scan", "--dry-run", "--json").Stdout, &plan)
	if after, err := os.ReadFile(loop); err != nil || string(after) != string(before) {
		t.Errorf("a dry run changed the disk (%v)", err)
	}

	if vmtest.Full() {
		withoutScan(t, dm.Path)
	}
	var c created
	parseJSON(t, rig.Want(t, 0, "create", dm.Path, "--name", "scanned", "--scan", "--badblocks",
		list, "--badblocks-size", "512", "--force", "--yes", "--json").Stdout, &c)
	if !c.Scanned || c.BadBlocks != 0 || c.Moved < 8*5 || c.BadSpares == 0 || c.FoundBad < 9 ||
		c.FoundBad != plan.FoundBad {
		t.Errorf("%+v; the dry run found %d", c, plan.FoundBad)
	}
	dev := rig.StartDevice(t, dm.Path)
	if st := rig.StatusOf(t, dev); st.Pending != 0 || st.Lost != 0 || st.Remaps < 6 {
		t.Errorf("%+v", st)
	}
	d := rig.Open(t, dev)
	b := rig.Aligned(1 << 20)
	for off := int64(0); off < d.Size; off += int64(len(b)) {
		if err := d.Read(b[:min(int64(len(b)), d.Size-off)], off); err != nil {
			t.Fatalf("at %d: %v", off, err)
		}
	}
	for _, off := range []int64{50000, 50023, 70001, 60001, end - 8, end - 121} {
		err := d.Read(b[:512], off*512)
		if err != nil || strings.Trim(string(b[:512]), "\x00") != "" {
			t.Errorf("sector %d: %v, %.16q", off, err, b)
		}
	}
	d.Close()
	// blkid finds nothing (2), and no error (4).
	cmd := exec.Command("blkid", "-p", dev)
	if out, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 2 {
		t.Errorf("blkid: %v: %s", err, out)
	}
	rig.Run(t, "blkdiscard", "-z", dev)
	vmtest.Mkfs(t, "ext4", dev)
	dir := vmtest.Mount(t, "ext4", dev)
	vmtest.Unmount(t, dir)
	rig.Want(t, 0, "stop", "scanned")
	rig.Want(t, 0, "metadata", "check", dm.Path)
}

// withoutScan shows what create --scan is for.
func withoutScan(t *testing.T, disk string) {
	t.Helper()
	rig.Want(t, 0, "create", disk, "--name", "unread")
	dev := rig.StartDevice(t, disk)
	if out, err := exec.Command("blkdiscard", "-z", dev).CombinedOutput(); err == nil {
		t.Errorf("blkdiscard does without --scan: %s", out)
	}
	rig.Want(t, 0, "stop", "unread")
}

// TestCreateScanRefuses: a disk with more bad units than spare units is refused, and nothing is
// changed. With more spare units it is taken.
func TestCreateScanRefuses(t *testing.T) {
	if !vmtest.Full() {
		t.Skip("TestCreateScan has the main job; UBLK_REMAP_FULL=1 runs this one too")
	}
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	const size = 48 << 20
	loop := vmtest.NewLoop(t, size, vmtest.LoopOptions{})
	dm := vmtest.NewDM(t, vmtest.ErrorTable(t, loop, vmtest.Extent{Start: 50000, Count: 1024}))
	before, err := os.ReadFile(loop)
	if err != nil {
		t.Fatal(err)
	}
	r := rig.Want(t, 1, "create", dm.Path, "--scan", "--spare", "256KiB")
	if !strings.Contains(r.Stderr, "--spare") ||
		!strings.Contains(r.Stderr, "nothing was changed") {
		t.Error(r.Stderr)
	}
	if after, err := os.ReadFile(loop); err != nil || string(after) != string(before) {
		t.Errorf("refused, and the disk was changed (%v)", err)
	}
	rig.Want(t, 0, "create", dm.Path, "--scan", "--spare", "2MiB")
	rig.Want(t, 0, "metadata", "check", dm.Path)
}
