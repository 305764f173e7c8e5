package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"ublkremap/internal/blockdev"
	"ublkremap/metadata"
)

// endMarks are marks at a disk's end, and their places on a disk of that size.
func endMarks(size int64) map[int64][]byte {
	return map[int64][]byte{
		(size/512 - 16) &^ 7 * 512: {0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0}, // MD 1.0
		size&^65535 - 65536:        {0xfc, 0x4e, 0x2b, 0xa9},             // MD 0.90
		size - 512:                 []byte("EFI PART"),
		size - 3087*512:            []byte("Promise Technology, Inc."),
		size - 4096 + 60:           {0x83, 0x74, 0x02, 0x6b}, // DRBD
		size - 1024:                []byte("Intel Raid ISM Cfg Sig. "),
	}
}

func endMarksOf(t *testing.T, path string) []blockdev.Signature {
	t.Helper()
	d, err := blockdev.Open(context.Background(), path, blockdev.Options{ReadOnly: true,
		Shared: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	return blockdev.DetectEnd(d, d.Size())
}

// TestCreateLeavesNoEnd: with a spare device, the old marks at the end of a disk are removed, and
// do not show at the end of the exported device.
func TestCreateLeavesNoEnd(t *testing.T) {
	useRuntimeDir(t)
	const size = 64 << 20
	disk, spare := diskFile(t, size), diskFile(t, 16<<20)
	for at, b := range endMarks(size) {
		patch(t, disk, at, b)
	}
	if n := len(endMarksOf(t, disk)); n != len(endMarks(size)) {
		t.Fatalf("%d marks are found", n)
	}
	mustRun(t, 0, "create", disk, "--spare-device", spare, "--force", "--yes")
	if found := endMarksOf(t, disk); len(found) > 0 {
		t.Errorf("left on the disk: %v", found)
	}
	// There is only the superblock.
	d, err := blockdev.Open(context.Background(), disk, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	sb, err := metadata.Probe(d)
	d.Close()
	if err != nil {
		t.Fatal(err)
	}
	tail := contents(t, disk)[sb.TailStart:]
	clear(tail[len(tail)-64<<10:][:4096])
	if sb.TailStart == 0 || !bytes.Equal(tail, make([]byte, len(tail))) {
		t.Errorf("the end of the disk, from %d on, is not empty", sb.TailStart)
	}
	if shown := exported(t, disk, spare); !bytes.Equal(shown[sb.TailStart:],
		make([]byte, size-sb.TailStart)) {
		t.Error("the exported end is not empty")
	}
	if out := mustRun(t, 0, "metadata", "check", disk, "--spare-device",
		spare).out; !strings.Contains(out, "no problems") {
		t.Error(out)
	}
}

// oldSet makes a set as older versions did, whose data reaches to the end of the disk.
func oldSet(t *testing.T, disk, spare string, block int) {
	t.Helper()
	var devs []metadata.Device
	for _, path := range []string{disk, spare} {
		d, err := blockdev.Open(context.Background(), path, blockdev.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		devs = append(devs, d)
	}
	plan, err := metadata.Plan(metadata.PlanParams{
		BackingSize: devs[0].Size(), SpareDeviceSize: devs[1].Size(), SpareBytes: 1 << 20,
		BlockSize: block, Name: "old", KeepTail: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := metadata.Create(devs, plan, nil); err != nil {
		t.Fatal(err)
	}
}

// TestOldEndIsTold: for a set of an older version whose data reaches to the disk's end, there is a
// warning as soon as there is a mark.
func TestOldEndIsTold(t *testing.T) {
	useRuntimeDir(t)
	const size = 64 << 20
	disk, spare := diskFile(t, size), diskFile(t, 16<<20)
	oldSet(t, disk, spare, 4096)
	check := func() string {
		t.Helper()
		return mustRun(t, 0, "metadata", "check", disk, "--spare-device", spare).out
	}
	if out := check(); !strings.Contains(out, "no problems") {
		t.Error(out)
	}
	for at, b := range endMarks(size) {
		patch(t, disk, at, b)
		if out := check(); !strings.Contains(out, "warning: "+disk) ||
			!strings.Contains(out, "at the end of the disk itself") {
			t.Errorf("with %q at %d: %s", b, at, out)
		}
		patch(t, disk, at, make([]byte, len(b)))
	}
}
