package main

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/files"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// healCase is a file system whose free space is healed.
type healCase struct {
	name, kind string
	mkfs       []string
	offline    string // empty: it is proven also if it is not mounted; else what is said
}

var healCases = []healCase{
	{"ext4", "ext4", []string{"-b", "4096"}, ""},
	{"ext4 of 1 KiB", "ext4", []string{"-b", "1024", "-O", "orphan_file,mmp"}, ""},
	{"ext4 with quota", "ext4", []string{"-O", "quota"}, ""},
	{"ext4 with meta_bg, sparse_super2, inline data", "ext4", []string{"-O",
		"meta_bg,^resize_inode,sparse_super2,inline_data"}, ""},
	{"ext4 with bigalloc", "ext4", []string{"-O", "bigalloc", "-C", "16384"},
		"bigalloc): mount it"},
	{"ext4 without 64bit, of 2 KiB", "ext4", []string{"-b", "2048", "-O", "^64bit"}, ""},
	{"ext3", "ext3", []string{"-O", "^64bit"}, ""},
	{"ext2", "ext2", nil, ""},
	{"xfs", "xfs", []string{"-m", "rmapbt=1,reflink=1"}, ""},
	{"xfs without a reverse map", "xfs", []string{"-m", "rmapbt=0,reflink=1"}, ""},
	{"xfs with sectors of 4 KiB", "xfs", []string{"-s", "size=4096", "-m", "rmapbt=1"}, ""},
	{"btrfs", "btrfs", nil, "mount it"},
	{"btrfs, mixed", "btrfs", []string{"--mixed"}, "mount it"},
	{"btrfs, all twice", "btrfs", []string{"-m", "dup", "-d", "dup"}, "mount it"},
	{"btrfs, all once", "btrfs", []string{"-m", "single", "-d", "single"}, "mount it"},
}

// bads is a device with a file system, and bad blocks in all kinds of its places.
type bads struct {
	*rig.Set
	healCase
	disk    *rig.Disk
	dir     string // empty: it is not mounted
	tree    rig.Tree
	broken  bool            // blocks that are read to find out what is free are bad too
	pending map[uint64]bool // by block: it is free
	files   map[uint64]bool // the pending blocks of files
}

// makeFS makes a file system.
func (c *healCase) makeFS(t *testing.T, dev string) {
	t.Helper()
	switch c.kind {
	case "xfs":
		rig.Mkfs(t, "xfs", dev, c.mkfs...)
	case "btrfs":
		rig.Run(t, "mkfs.btrfs", append(append([]string{"-q", "-f"}, c.mkfs...), dev)...)
	default:
		args := append([]string{"-q", "-F", "-t", c.kind}, c.mkfs...)
		rig.Run(t, "mke2fs", append(args, dev)...)
	}
}

// newBads makes the device, and has blocks of each kind of place go bad and be read.
func newBads(t *testing.T, c healCase, mounted, broken bool) *bads {
	t.Helper()
	useRuntimeDir(t)
	rng := rig.Random(t)
	d := &bads{healCase: c, disk: rig.NewDisk(t, rig.KindLoop, 400, 512), broken: broken,
		pending: map[uint64]bool{}, files: map[uint64]bool{}}
	d.Set = rig.Create(t, d.disk.Path, "", "--spare", "4MiB")
	d.CheckAtEnd(t)
	layout := rig.LayoutOf(t, d.disk.Path)
	d.Start(t)
	c.makeFS(t, d.Dev)
	d.dir = d.Mount(t, c.kind)
	d.tree = rig.PlantTree(t, d.dir, rng)
	must(t, os.WriteFile(filepath.Join(d.dir, "gone"), make([]byte, 8<<20), 0o600))
	must(t, os.WriteFile(filepath.Join(d.dir, "filler"), make([]byte, 4<<20), 0o600))
	rig.SyncFS(t, d.dir)
	must(t, os.Remove(filepath.Join(d.dir, "gone")))
	rig.SyncFS(t, d.dir)
	if c.kind == "xfs" {
		// It gives up the blocks of deleted files some time later, or when it ends.
		rig.Unmount(t, d.dir)
		d.dir = d.Mount(t, c.kind)
	}
	places := d.pick(t, rng, mounted)
	if !mounted {
		rig.Unmount(t, d.dir)
		d.dir = ""
	}
	var bad []rig.Extent
	for _, e := range places {
		bad = append(bad, layout.HomesOnBacking(e)...)
	}
	d.disk.SetBad(t, bad)
	direct := rig.OpenToRead(t, d.Dev)
	defer direct.Close()
	b := rig.Aligned(512)
	for _, e := range places {
		for at := e.Start; at < e.End(); at += 512 {
			// A mounted file system may have written its own metadata since.
			block := uint64(at) / 512
			if direct.Read(b, at) == nil && (!mounted || d.pending[block] || d.files[block]) {
				t.Fatalf("byte %d reads", at)
			}
		}
	}
	return d
}

// pick chooses blocks of each kind of place, more of free space.
func (d *bads) pick(t *testing.T, rng *rand.Rand, mounted bool) (places []rig.Extent) {
	t.Helper()
	kinds := map[string][]files.Row{}
	whole := map[uint64]bool{} // pages that must read, as tools read pages
	for _, r := range owners(t, d.Dev, fmt.Sprintf("0+%d", d.Status(t).SizeBlocks)) {
		what := string(r.Owner) + " " + r.What
		if !d.broken && r.Owner == files.OwnerMetadata {
			for page := r.Block / 8; page <= (r.Block+r.Count-1)/8; page++ {
				whole[page] = true
			}
		}
		switch {
		case strings.HasPrefix(r.What, "superblock") || r.Block < 8:
			continue // without one nothing is known; TestNoSuperblock tests that
		case r.Owner == files.OwnerMetadata && !d.broken, !mounted && r.Owner == files.OwnerUnknown:
			continue // some is held ready for files while ext4 is mounted
		}
		kinds[what] = append(kinds[what], r)
	}
	if d.broken && len(kinds) < 3 || len(kinds["free free space"]) == 0 {
		t.Fatalf("only %v", slices.Collect(maps.Keys(kinds)))
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		n := 3
		if kind == "free free space" {
			n = 20
		}
		for range n {
			r := kinds[kind][rng.IntN(len(kinds[kind]))]
			first := r.Block + rng.Uint64N(r.Count)
			count := 1 + rng.Uint64N(min(12, r.Block+r.Count-first))
			if whole[first/8] || whole[(first+count-1)/8] {
				continue
			}
			for i := range count {
				d.pending[first+i] = r.Owner == files.OwnerFree
				if r.Owner == files.OwnerFile {
					d.files[first+i] = true
				}
			}
			places = append(places, rig.At(int64(first)*512, int64(count)*512))
		}
	}
	t.Logf("%s: %d kinds of places: %q", d.name, len(kinds), slices.Sorted(maps.Keys(kinds)))
	return rig.Merge(places)
}

// bad returns the blocks that are pending or lost.
func (d *bads) bad(t *testing.T) map[uint64]bool {
	t.Helper()
	all := map[uint64]bool{}
	for _, r := range d.Remaps(t) {
		if r.State == "pending" || r.State == "lost" {
			for i := range uint64(r.Count) {
				all[uint64(r.Block)+i] = true
			}
		}
	}
	return all
}

var contentsSeed = maphash.MakeSeed()

// contents are the checksums of all blocks that read and are not zeroes.
func (d *bads) contents(t *testing.T) map[uint64]uint64 {
	t.Helper()
	direct := rig.OpenToRead(t, d.Dev)
	defer direct.Close()
	all := map[uint64]uint64{}
	const most = 1 << 20
	b, zeroes := rig.Aligned(most), make([]byte, most)
	// look reads a part, and if it does not read, its halves.
	var look func(at, n int64)
	look = func(at, n int64) {
		part := b[:n]
		if direct.Read(part, at) != nil {
			if half := n / 2 &^ 511; half > 0 {
				look(at, half)
				look(at+half, n-half)
			}
			return
		}
		if bytes.Equal(part, zeroes[:n]) {
			return
		}
		for i := int64(0); i < n; i += 512 {
			if block := part[i : i+512]; !bytes.Equal(block, zeroes[:512]) {
				all[uint64(at+i)/512] = maphash.Bytes(contentsSeed, block)
			}
		}
	}
	size := int64(d.Status(t).SizeBlocks) * 512
	for at := int64(0); at < size; at += most {
		look(at, min(most, size-at))
	}
	return all
}

// TestHealFreeOn: on each file system, mounted and not, exactly the bad blocks in free space are
// overwritten. Those of files, journals, inode tables and other metadata stay as they are.
func TestHealFreeOn(t *testing.T) {
	if !vmtest.UserMode() && !vmtest.Full() {
		t.Skip("it takes long: runs under user-mode Linux and by make test-vm-full")
	}
	vmtest.NeedUblk(t)
	vmtest.NeedTools(t, "mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "xfs_db", "xfs_logprint", "debugfs",
		"dumpe2fs", "btrfs")
	for _, c := range healCases {
		for _, mounted := range []bool{true, false} {
			for _, broken := range []bool{true, false} {
				if mounted && !broken {
					continue
				}
				name := fmt.Sprintf("%s, mounted %v, broken %v", c.name, mounted, broken)
				t.Run(name, func(t *testing.T) {
					if slices.Contains(c.mkfs, "quota") {
						if vmtest.UserMode() {
							t.Skip("this kernel has no quota: runs under Debian's kernels")
						}
						vmtest.Modprobe(t, "quota_v2")
					}
					newBads(t, c, mounted, broken).heal(t)
				})
			}
		}
	}
}

// want returns the blocks that are to be healed.
func (d *bads) want(was map[uint64]bool) map[uint64]bool {
	want := map[uint64]bool{}
	for block, free := range d.pending {
		if free && was[block] && (d.dir != "" || d.offline == "") {
			want[block] = true
		}
	}
	return want
}

func (d *bads) heal(t *testing.T) {
	t.Helper()
	var before map[uint64]uint64
	if d.dir == "" { // a mounted one writes by itself
		before = d.contents(t)
	}
	was := d.bad(t)
	want := d.want(was)
	for _, args := range [][]string{{d.Name, "--dry-run"}, {d.Name}} {
		h, said := healed(t, args...)
		got := map[uint64]bool{}
		for _, g := range h.Free {
			for i := range g.Count {
				got[g.Block+i] = true
			}
		}
		if d.dir == "" && d.broken && d.offline == "" && len(got) == 0 {
			// It cannot be found out what is free, and it says why.
			want = got
			if strings.Count(said, "\n") != 1 || !strings.Contains(said, " is left as it is: ") {
				t.Errorf("it says %q", said)
			}
			t.Logf("it says %s", said)
		}
		if !maps.Equal(got, want) {
			t.Fatalf("free are %v\nwant %v; it says %s", slices.Sorted(maps.Keys(got)),
				slices.Sorted(maps.Keys(want)), said)
		}
		if d.dir == "" && !strings.Contains(said, d.offline) || h.DryRun != (len(args) == 2) ||
			!h.DryRun && h.Healed != uint64(len(want)) || h.Failed+h.Reads+h.Written > 0 {
			t.Errorf("%+v; it says %s", h, said)
		}
	}
	now := d.bad(t)
	for block := range was {
		// A mounted one writes its own metadata, and heals them so.
		if want[block] && now[block] || !want[block] && !now[block] &&
			(d.dir == "" || d.files[block]) {
			t.Errorf("block %d, free %v: pending %v", block, want[block], now[block])
		}
	}
	if d.dir == "" && !maps.Equal(before, d.contents(t)) {
		t.Error("the device does not hold what it held")
	}
	text := rig.Want(t, exit.Done, "files", d.Name, "--heal-free").Stdout
	if !strings.HasPrefix(text, "healed 0 blocks") {
		t.Errorf("again: %s", text)
	}
	// The disk is well again. Nothing but free space may have changed. Healed blocks count as moved
	// on purpose, which only clear takes home.
	d.disk.SetBad(t, nil)
	if d.dir != "" { // its own writes would make the test of a block begin again
		rig.Unmount(t, d.dir)
		d.dir = ""
	}
	retested := rig.Want(t, exit.Done, "remap", "clear", d.Name, "--yes", "--pause", "0s")
	if left := d.bad(t); len(left) > 0 {
		t.Fatalf("%v are pending on a disk that is well; the retest says %s%s", left,
			retested.Stdout, retested.Stderr)
	}
	if d.dir == "" {
		d.dir = d.Mount(t, d.kind)
	}
	d.tree.Verify(t, d.dir)
	rig.Unmount(t, d.dir)
	switch d.kind {
	case "btrfs":
		rig.Run(t, "btrfs", "check", d.Dev)
	case "xfs":
		rig.Fsck(t, "xfs", d.Dev)
	default:
		rig.Fsck(t, "ext4", d.Dev)
	}
}

// TestNoSuperblock: if the block is bad that says which file system there is, one line says so, and
// nothing is healed.
func TestNoSuperblock(t *testing.T) {
	if !vmtest.UserMode() && !vmtest.Full() {
		t.Skip("it takes long: runs under user-mode Linux and by make test-vm-full")
	}
	d := newDamaged(t)
	layout := rig.LayoutOf(t, d.disk.Path)
	rig.Unmount(t, d.dir)
	at := rig.At(1024, 1024)
	d.disk.SetBad(t, append(slices.Clone(d.disk.Bad), layout.HomesOnBacking(at)...))
	must(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o200))
	direct := rig.OpenToRead(t, d.Dev)
	_ = direct.Read(rig.Aligned(1024), at.Start)
	direct.Close()
	rows := owners(t, d.Name)
	if len(rows) != 3 {
		t.Errorf("%+v", rows)
	}
	for _, r := range rows {
		if r.Owner != files.OwnerUnknown || !strings.Contains(r.What, "cannot be read") {
			t.Errorf("%+v", r)
		}
	}
	h, said := healed(t, d.Name)
	if len(h.Free) != 0 || strings.Count(said, "\n") != 1 || !strings.Contains(said,
		"its free space is left as it is: places of it that would tell what is on it") {
		t.Errorf("%+v; it says %s", h, said)
	}
}
