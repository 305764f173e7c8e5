package files

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// isFree reports whether a place is proven to be free.
func isFree(t *testing.T, dev string, at rig.Extent) bool {
	t.Helper()
	p, err := Prove(t.Context(), Device{Path: dev, BlockSize: blockSize},
		[]Run{{uint64(at.Start / blockSize), uint64(at.Length / blockSize), "pending"}})
	must(t, err)
	defer p.Close()
	return len(p.Free) > 0
}

// TestStaleCache: a process has a partition open, so that the kernel keeps in memory what it once
// read of it. Then the partition is written to by way of its disk. What is told is what the disk
// holds.
func TestStaleCache(t *testing.T) {
	vmtest.NeedTools(t, "mkfs.ext4", "mkfs.xfs", "xfs_db", "xfs_logprint", "debugfs", "dumpe2fs",
		"sfdisk")
	needTime(t)
	const start = 1 << 20
	for kind, mkfs := range map[string][]string{"ext4": {"-q", "-F"}, "xfs": {"-q", "-f"}} {
		t.Run(kind, func(t *testing.T) {
			disk := vmtest.NewLoop(t, 400<<20, vmtest.LoopOptions{Partitions: true})
			table := exec.Command("sfdisk", "-q", disk)
			table.Stdin = strings.NewReader("label: dos\nstart=2048, type=83\n")
			if out, err := table.CombinedOutput(); err != nil {
				t.Fatalf("sfdisk: %v: %s", err, out)
			}
			part := disk + "p1"
			rig.Until(t, part, func() bool { _, err := os.Stat(part); return err == nil })
			vmtest.Run(t, "mkfs."+kind, append(mkfs, part)...)
			image := filepath.Join(t.TempDir(), "image")
			reader, err := os.Open(part)
			must(t, err)
			defer reader.Close()
			copied, err := os.Create(image)
			must(t, err)
			_, err = io.Copy(copied, reader)
			must(t, errors.Join(err, copied.Close()))
			dir := mountOn(t, kind, vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: image}))
			_, at := places(t, dir, 1)
			must(t, unix.Unmount(dir, 0))
			place := rig.Extent{Start: start + at[0].Start, Length: 4096}
			if !isFree(t, disk, place) {
				t.Fatal("what is free is not proven to be free")
			}
			vmtest.Run(t, "dd", "if="+image, "of="+disk, "bs=1M", "seek=1", "conv=notrunc,fsync",
				"status=none")
			if isFree(t, disk, place) {
				t.Error("the place is proven to be free by what the disk held before")
			}
			if r := one(t, disk, place); r.Owner != OwnerFile || r.Path != "/file0" {
				t.Errorf("%+v", r)
			}
		})
	}
}
