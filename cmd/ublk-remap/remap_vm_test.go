package main

import (
	"encoding/json"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

func TestSpareDeviceLife(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	rng := rig.Random(t)
	disk := vmtest.NewLoop(t, 96<<20, vmtest.LoopOptions{})
	spare := vmtest.NewLoop(t, 16<<20, vmtest.LoopOptions{})
	rig.Want(t, 0, "create", disk, "--name", "life", "--spare-device", spare)
	// The spare device is found although it is not named.
	dev := rig.StartDevice(t, disk)
	if st := rig.StatusOf(t, dev); st.SizeBlocks*st.BlockSize != 96<<20 ||
		len(st.Spare.Devices) != 1 || st.Spare.Devices[0].Device != spare ||
		len(st.Metadata.Mirrors) != 3 {
		t.Errorf("%+v", st)
	}
	vmtest.Mkfs(t, "ext4", dev)
	dir := vmtest.Mount(t, "ext4", dev)
	tree := rig.PlantTree(t, dir, rng)
	rig.Want(t, 0, "remap", "add", "life", "0+64", "70000+100")
	rig.Want(t, exit.Usage, "remap", "add", "life", "999999999")
	tree.Verify(t, dir)
	rig.Kill(t, dev)
	rig.Want(t, 0, "start", "life")
	rig.Want(t, 0, "remap", "remove", "life", "0+64")
	vmtest.Unmount(t, dir)
	rig.Want(t, 0, "stop", "life")
	rig.Want(t, 0, "metadata", "check", disk)
	dev = rig.StartDevice(t, disk, "--spare-device", spare)
	dir = vmtest.Mount(t, "ext4", dev)
	tree.Verify(t, dir)
	vmtest.Unmount(t, dir)
	var list []control.Remap
	if err := json.Unmarshal([]byte(rig.Want(t, 0, "remap", "list", "life", "--json").Stdout),
		&list); err != nil {
		t.Fatal(err)
	}
	var blocks uint64
	for _, r := range list {
		blocks += r.Count
	}
	if blocks != 100 {
		t.Errorf("%d blocks remapped, want 100: %+v", blocks, list)
	}
	rig.Want(t, 0, "stop", "life")
}
