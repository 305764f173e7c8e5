package files

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// alone tells of a run of a chunk as the kernel does, which is asked about each block.
func (b *btrfs) alone(l *layout, logical int64, p piece) error {
	for p.size > 0 {
		n := min(p.size, b.sector-logical%b.sector)
		in, at := piece{p.top, p.at, n}, logical-logical%b.sector
		users, err := logicalUsers(b.root, at, &b.inodes)
		tree := false
		if errors.Is(err, unix.ENOENT) && l.kind&(chunkSystem|chunkMetadata) != 0 {
			if tree, err = b.treeBlockAt(at); err == nil {
				err = unix.ENOENT
			}
		}
		switch {
		case tree:
			b.metadata(l, in)
		case errors.Is(err, unix.ENOENT):
			b.free(in)
		case err != nil:
			return err
		default:
			b.used(l, users, in)
		}
		logical, p = logical+n, p.from(n)
	}
	return nil
}

// treeBlockAt reports whether a block of a tree is at a logical address.
func (b *btrfs) treeBlockAt(logical int64) (found bool, err error) {
	const treeFlag = 2
	b.search = btrfsSearch{tree: treeExtents, minObject: uint64(max(0, logical-b.treeBlock+1)),
		maxObject: uint64(logical), maxOffset: ^uint64(0), minType: keyExtent,
		maxType: keyTreeBlock, items: ^uint32(0)}
	_, err = b.search.once(b.root, func(i btrfsItem) {
		found = found || i.kind == keyTreeBlock || i.kind == keyExtent && len(i.data) >= 24 &&
			binary.LittleEndian.Uint64(i.data[16:])&treeFlag != 0
	})
	return found, err
}

// mountedBtrfs returns a device that is mounted, to be asked.
func mountedBtrfs(t *testing.T, dev string) *btrfs {
	t.Helper()
	f := &finder{ctx: t.Context(), mounts: allMounts(), progress: untold{}}
	d, err := nodeAt(dev)
	must(t, err)
	m := f.mountsOf(d.dev)[0]
	root, _, err := openMount(m)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(root) })
	b := newBtrfs(&volume{finder: f, node: d, mount: m, fs: m.said(dev), root: root})
	must(t, b.open())
	return b
}

// told returns what is said of each block of a device that is mounted, in order, and how long it
// took. Nothing is to change meanwhile.
func told(t *testing.T, dev string, pieces []piece, alone bool) (map[int64][]Fact, time.Duration) {
	t.Helper()
	b := mountedBtrfs(t, dev)
	if alone {
		b.run = b.alone
	}
	start := time.Now()
	must(t, b.find(within(pieces, 0, b.size)))
	took := time.Since(start)
	if strings.Contains(strings.Join(b.notes, " "), unsettled) {
		t.Errorf("%s: it was changed meanwhile", dev)
	}
	says := map[int64][]Fact{}
	for _, p := range b.facts {
		for at := p.top; at < p.top+p.size; at += b.sector {
			says[at] = append(says[at], p.fact)
		}
	}
	for _, facts := range says {
		slices.SortFunc(facts, func(a, b Fact) int {
			return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
		})
	}
	return says, took
}

// btrfsTree makes files in all the ways in which they can share, split and hide extents.
type btrfsTree struct {
	t       *testing.T
	rng     *rand.Rand
	dir     string
	volumes []string
	files   []string
	next    int
}

func (b *btrfsTree) name(in string) string {
	b.next++
	return filepath.Join(in, fmt.Sprintf("n%d", b.next))
}

func (b *btrfsTree) write(path string, size int, flags int) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|flags, 0o600)
	must(b.t, err)
	defer f.Close()
	at := int64(0)
	if st, err := f.Stat(); err == nil && st.Size() > 4096 {
		at = b.rng.Int64N(st.Size()) &^ 4095
	}
	data := make([]byte, size)
	if b.rng.IntN(2) == 0 {
		for i := range data {
			data[i] = byte(b.rng.Uint32())
		}
	}
	_, err = f.WriteAt(data, at)
	must(b.t, err)
}

func (b *btrfsTree) any() string { return b.files[b.rng.IntN(len(b.files))] }

// step changes something.
func (b *btrfsTree) step() {
	volume := b.volumes[b.rng.IntN(len(b.volumes))]
	switch k := b.rng.IntN(20); {
	case k < 6 || len(b.files) < 4:
		path := b.name(volume)
		b.write(path, 1+b.rng.IntN(1<<(8+b.rng.IntN(13))), 0)
		b.files = append(b.files, path)
	case k < 10: // what it had there is hidden, and not free as long as the rest is in use
		b.write(b.any(), 1+b.rng.IntN(100_000), 0)
	case k < 14:
		b.share()
	case k < 15:
		path := b.any()
		must(b.t, os.Truncate(path, b.rng.Int64N(100_000)))
	case k < 16:
		f, err := os.OpenFile(b.any(), os.O_RDWR, 0)
		must(b.t, err)
		must(b.t, unix.Fallocate(int(f.Fd()), 0, b.rng.Int64N(50)*4096, 1+b.rng.Int64N(2<<20)))
		must(b.t, f.Close())
	case k < 17:
		i := b.rng.IntN(len(b.files))
		must(b.t, os.Remove(b.files[i]))
		b.files = slices.Delete(b.files, i, i+1)
	case k < 18:
		if len(b.volumes) < 6 {
			path := b.name(b.dir)
			rig.Run(b.t, "btrfs", "-q", "subvolume", "snapshot", volume, path)
			b.volumes = append(b.volumes, path)
		}
	case k < 19:
		rig.SyncFS(b.t, b.dir)
	default:
		b.write(b.name(volume), 100+b.rng.IntN(1500), os.O_EXCL) // its data is in the tree
	}
}

// share makes a part of a file be a part of another one too.
func (b *btrfsTree) share() {
	from, err := os.Open(b.any())
	must(b.t, err)
	defer from.Close()
	to, err := os.OpenFile(b.any(), os.O_RDWR, 0)
	must(b.t, err)
	defer to.Close()
	st, err := from.Stat()
	must(b.t, err)
	blocks := st.Size() / 4096
	if blocks == 0 {
		return
	}
	at := b.rng.Int64N(blocks)
	n := 1 + b.rng.Int64N(blocks-at)
	err = unix.IoctlFileCloneRange(int(to.Fd()), &unix.FileCloneRange{Src_fd: int64(from.Fd()),
		Src_offset: uint64(at * 4096), Src_length: uint64(n * 4096),
		Dest_offset: uint64(b.rng.Int64N(64) * 4096)})
	if !errors.Is(err, unix.EINVAL) { // a file onto itself
		must(b.t, err)
	}
}

// TestBtrfsByExtent: what is told by extents is what the kernel tells of each block alone.
func TestBtrfsByExtent(t *testing.T) {
	vmtest.NeedTools(t, "mkfs.btrfs", "btrfs")
	needTime(t)
	_ = exec.Command("modprobe", "btrfs").Run()
	for _, c := range []struct {
		mkfs, options string
		disks         int
	}{
		{"-m single -d single", "compress-force=zlib", 1},
		{"-m dup -d dup", "", 1},
		{"--mixed", "", 1},
		{"-m raid1 -d raid0", "", 2},
		{"-m raid1 -d raid1", "compress=zstd", 2},
		{"-m raid10 -d raid10", "", 4},
		{"-m dup -d single -n 4096", "", 1},
		{"-m dup -d single -O ^no-holes,^skinny-metadata", "", 1},
	} {
		t.Run(c.mkfs+" "+c.options, func(t *testing.T) {
			rng := rig.Random(t)
			args := append([]string{"-q", "-f"}, strings.Fields(c.mkfs)...)
			var devs []string
			for range c.disks {
				devs = append(devs, vmtest.NewLoop(t, 256<<20, vmtest.LoopOptions{}))
			}
			vmtest.Run(t, "mkfs.btrfs", append(args, devs...)...)
			if c.disks > 1 {
				vmtest.Run(t, "btrfs", append([]string{"device", "scan"}, devs...)...)
			}
			dir := t.TempDir()
			mount := func(options string) { // what is deleted is cleaned up with a commit
				must(t, unix.Mount(devs[0], dir, "btrfs", unix.MS_NOATIME, "commit=1"+options))
			}
			mount("")
			t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
			first := filepath.Join(dir, "first")
			vmtest.Run(t, "btrfs", "-q", "subvolume", "create", first)
			tree := &btrfsTree{t: t, rng: rng, dir: dir, volumes: []string{dir, first}}
			for range 150 {
				tree.step()
			}
			tree.oftenShared()
			large := tree.name(dir)
			tree.write(large, 24<<20, 0) // in few extents
			rig.SyncFS(t, dir)
			if c.options != "" {
				must(t, unix.Unmount(dir, 0))
				mount("," + c.options)
			}
			for range 250 {
				tree.step()
			}
			gone := tree.volumes[len(tree.volumes)-1]
			vmtest.Run(t, "btrfs", "-q", "subvolume", "delete", gone)
			vmtest.Run(t, "btrfs", "subvolume", "sync", dir)
			rig.SyncFS(t, dir)
			// btrfs goes on to clean up behind what was deleted, and so moves its trees.
			freeze(t, dir)
			for _, dev := range devs {
				tree.compare(dev)
			}
		})
	}
}

// freeze has nothing change in a mounted file system until the test ends.
func freeze(t *testing.T, dir string) {
	t.Helper()
	const (
		freeze = 0xc0045877 // FIFREEZE
		thaw   = 0xc0045878 // FITHAW
	)
	root, err := os.Open(dir)
	must(t, err)
	t.Cleanup(func() { _ = root.Close() })
	var none uint32
	must(t, ioctl(int(root.Fd()), freeze, &none))
	t.Cleanup(func() { _ = ioctl(int(root.Fd()), thaw, &none) })
}

// oftenShared makes blocks that more files show than there is room for in one answer.
func (b *btrfsTree) oftenShared() {
	path := b.name(b.dir)
	b.write(path, 64<<10, 0)
	rig.SyncFS(b.t, b.dir)
	from, err := os.Open(path)
	must(b.t, err)
	defer from.Close()
	for range btrfsRoom {
		to, err := os.Create(b.name(b.dir))
		must(b.t, err)
		must(b.t, errors.Join(unix.IoctlFileClone(int(to.Fd()), int(from.Fd())), to.Close()))
	}
	rig.SyncFS(b.t, b.dir)
}

// compare compares both ways, about all blocks of a device and about some.
func (b *btrfsTree) compare(dev string) {
	t := b.t
	t.Helper()
	size := vmtest.Sectors(t, dev) * 512
	want, slow := told(t, dev, []piece{{0, 0, size}}, true)
	got, fast := told(t, dev, []piece{{0, 0, size}}, false)
	b.equal(dev, got, want)
	kinds := map[string]int{}
	for _, facts := range want {
		for _, f := range facts {
			kinds[string(f.Owner)+" "+f.What]++
		}
	}
	t.Logf("%s: %d blocks: %s by block, %s by extent: %v", dev, len(want), slow, fast, kinds)
	b.proves(dev, want)
	// Alone, a block may be far behind the start of its extent.
	for range 60 {
		at := b.rng.Int64N(size/4096) * 4096
		got, _ := told(t, dev, []piece{{at, at, 4096}}, false)
		if !slices.Equal(got[at], want[at]) {
			t.Errorf("%s: byte %d alone:\ngot  %v\nwant %v", dev, at, got[at], want[at])
		}
	}
	for range 3 {
		var some []piece
		for at := int64(0); at < size; at += b.rng.Int64N(64) * 4096 {
			n := 4096 * min(1+b.rng.Int64N(1<<b.rng.IntN(6)), (size-at)/4096)
			if n > 0 {
				some = append(some, piece{at, at, n})
			}
			at += n + 4096
		}
		got, _ = told(t, dev, some, false)
		part := map[int64][]Fact{}
		for _, p := range some {
			for at := p.at; at < p.at+p.size; at += 4096 {
				if facts, ok := want[at]; ok {
					part[at] = facts
				}
			}
		}
		b.equal(dev, got, part)
	}
}

// proves checks that exactly what is free is proven to be free.
func (b *btrfsTree) proves(dev string, want map[int64][]Fact) {
	b.t.Helper()
	p, err := Prove(b.t.Context(), Device{Path: dev, BlockSize: blockSize},
		[]Run{{0, uint64(vmtest.Sectors(b.t, dev)), "pending"}})
	must(b.t, err)
	defer p.Close()
	free := map[int64]bool{}
	for _, r := range p.Free {
		for i := range r.Count {
			free[int64(r.Block+i)*blockSize] = true
		}
	}
	for at, facts := range want {
		if free[at] != (facts[0].Owner == OwnerFree) {
			b.t.Fatalf("%s: byte %d: proven to be free: %v, it is %v; %q", dev, at, free[at],
				facts, p.Notes)
		}
	}
}

func (b *btrfsTree) equal(dev string, got, want map[int64][]Fact) {
	b.t.Helper()
	if len(got) != len(want) {
		b.t.Errorf("%s: of %d blocks something is told, want %d", dev, len(got), len(want))
	}
	bad := 0
	for at, facts := range want {
		if !slices.Equal(got[at], facts) {
			if bad++; bad <= 5 {
				b.t.Errorf("%s: byte %d:\ngot  %v\nwant %v", dev, at, got[at], facts)
			}
		}
	}
	if bad > 5 {
		b.t.Errorf("and %d more", bad-5)
	}
}
