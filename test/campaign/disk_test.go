package campaign

import (
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// diskMiB is the size of a disk: xfs wants 300 MiB.
const diskMiB = 384

// disk is a disk whose sectors can go bad while it is in use.
type disk struct {
	path string
	// Either null, or a table over a loop device with what is bad so far.
	null  *vmtest.NullBlk
	dm    *vmtest.DM
	below string
	bad   []vmtest.Extent
}

func newDisk(t *testing.T, rng *rand.Rand, mib int) *disk {
	t.Helper()
	blockSize := []int{512, 4096}[rng.IntN(2)]
	if rng.IntN(2) == 0 {
		n := vmtest.NewNullBlk(t, vmtest.NullBlkOptions{SizeMiB: mib, BlockSize: blockSize,
			Attrs: map[string]string{"discard": "1"}})
		return &disk{path: n.Path, null: n}
	}
	d := &disk{below: vmtest.NewLoop(t, int64(mib)<<20,
		vmtest.LoopOptions{BlockSize: uint32(blockSize)})}
	d.dm = vmtest.NewDM(t, vmtest.LinearTable(t, d.below))
	d.path = d.dm.Path
	return d
}

// spoil makes more of the disk bad: reads and writes answer EIO from now on.
func (d *disk) spoil(t *testing.T, places []rig.Extent) {
	t.Helper()
	for _, p := range places {
		d.bad = append(d.bad, vmtest.Extent{Start: p.Start / 512, Count: p.Length / 512})
	}
	if d.null != nil {
		d.null.AddBad(t, d.bad...)
		return
	}
	d.dm.Swap(t, vmtest.ErrorTable(t, d.below, d.bad...))
}

func (d *disk) kind() string {
	if d.null != nil {
		return "null_blk"
	}
	return "dm-error"
}

// mkfs makes a file system. mkfs.xfs refuses small disks since xfsprogs 5.19, but
// for an undocumented option that came with the refusal.
func mkfs(t *testing.T, fs, dev string) {
	t.Helper()
	if fs == "ext4" {
		rig.Run(t, "mkfs.ext4", "-q", "-F", dev)
		return
	}
	r := rig.Exec(t, "mkfs.xfs", "-q", "-f", "--unsupported", dev)
	if r.Code != 0 && strings.Contains(r.Stderr, "unrecognized option") {
		r = rig.Exec(t, "mkfs.xfs", "-q", "-f", dev)
	}
	r.Want(t, 0)
}

// fsck fails the test unless the file system, not mounted, is clean.
func fsck(t *testing.T, fs, dev string) {
	t.Helper()
	if fs == "ext4" {
		rig.Run(t, "e2fsck", "-f", "-n", dev)
		return
	}
	rig.Run(t, "xfs_repair", "-n", dev)
}

// mount mounts the device in a new directory.
func mount(t *testing.T, fs, dev string) string {
	t.Helper()
	dir := t.TempDir()
	rig.Run(t, "mount", "-t", fs, dev, dir)
	return dir
}

// reserve makes a file whose blocks are allocated and not written, and says
// where on the device they are.
func reserve(t *testing.T, path string, size int64) []rig.Extent {
	t.Helper()
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, size), f.Sync())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	return rig.Extents(t, f, size)
}

// pick chooses n places of 1 to 12 units of 4 KiB or single sectors in extents of
// the exported device, and returns where they are on the disk.
func pick(rng *rand.Rand, lay rig.Layout, blockSize int64, in []rig.Extent, n int) []rig.Extent {
	var out []rig.Extent
	for range n {
		e := in[rng.IntN(len(in))]
		length := min(blockSize*(1+rng.Int64N(12)), e.Length)
		start := e.Start + rng.Int64N((e.Length-length)/blockSize+1)*blockSize
		// What straddles the end of the displaced head, or where the tail begins, is
		// in two places.
		if start < lay.Head && start+length > lay.Head || start < lay.Tail &&
			start+length > lay.Tail {
			continue
		}
		if device, at := lay.Home(rig.Extent{Start: start, Length: length}); device == 0 {
			out = append(out, at)
		}
	}
	return out
}
