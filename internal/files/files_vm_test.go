package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// planted is a file system with known owners.
type planted struct {
	dev, dir string
	file     string
	at       []rig.Extent // of the file
	size     int64        // of the device
}

const blockSize = 512

// plant makes a file system on a device, and files in it.
func plant(t *testing.T, kind, dev string, mkfs ...string) *planted {
	t.Helper()
	vmtest.Run(t, "mkfs."+kind, append(mkfs, dev)...)
	p := &planted{dev: dev, dir: mountOn(t, kind, dev)}
	d := filepath.Join(p.dir, "some where", "deep")
	must(t, os.MkdirAll(d, 0o755))
	for i := range 50 {
		must(t, os.WriteFile(fmt.Sprintf("%s/f%d", d, i), make([]byte, 20_000), 0o644))
	}
	p.file = filepath.Join(d, "the file")
	must(t, os.WriteFile(p.file, make([]byte, 1<<20), 0o644))
	rig.SyncFS(t, p.dir)
	p.find(t)
	p.size = vmtest.Sectors(t, dev) * 512
	return p
}

func (p *planted) find(t *testing.T) {
	t.Helper()
	f, err := os.Open(p.file)
	must(t, err)
	defer f.Close()
	p.at = rig.Extents(t, f, 1<<20)
}

func mountOn(t *testing.T, kind, dev string) string {
	t.Helper()
	dir := t.TempDir()
	err := unix.Mount(dev, dir, kind, 0, "")
	if errors.Is(err, unix.ENODEV) && !vmtest.InGuest() {
		t.Skipf("this kernel has no %s; make test-vm runs this test in a guest", kind)
	}
	must(t, err)
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ask finds the owners of bytes of a device.
func ask(t *testing.T, dev string, places ...rig.Extent) *Result {
	t.Helper()
	var runs []Run
	for _, e := range places {
		runs = append(runs, Run{uint64(e.Start / blockSize), uint64(e.Length / blockSize), "home"})
	}
	found, err := Find(context.Background(), Device{Path: dev, BlockSize: blockSize}, runs)
	must(t, err)
	var n, want uint64
	for _, r := range runs {
		want += r.Count
	}
	for _, r := range found.Rows {
		n += r.Count
	}
	if n < want {
		t.Errorf("rows about %d blocks, want %d", n, want)
	}
	return found
}

// one checks that all of a place has one owner, and returns it.
func one(t *testing.T, dev string, e rig.Extent) Row {
	t.Helper()
	found := ask(t, dev, e)
	if len(found.Rows) != 1 {
		t.Fatalf("%v: %+v %q", e, found.Rows, found.Notes)
	}
	return found.Rows[0]
}

// whole asks about all of a device, and returns the rows by what they say.
func whole(t *testing.T, p *planted) map[string]uint64 {
	t.Helper()
	if !thorough() {
		return nil
	}
	found := ask(t, p.dev, rig.Extent{Start: 0, Length: p.size})
	says := map[string]uint64{}
	for _, r := range found.Rows {
		says[string(r.Owner)+" "+r.What] += r.Count
	}
	t.Log(p.dev, says, found.Notes)
	return says
}

// thorough reports whether there is time for all of a test. An emulated machine takes minutes for
// what user-mode Linux does in seconds.
func thorough() bool { return vmtest.UserMode() || vmtest.Full() }

// needTime skips a test that takes long.
func needTime(t *testing.T) {
	t.Helper()
	if !thorough() {
		t.Skip("it takes long: runs under user-mode Linux and by make test-vm-full")
	}
}

// free returns a free place of a mounted file system: that of a file that was removed.
func free(t *testing.T, dir string) rig.Extent {
	t.Helper()
	path := filepath.Join(dir, "gone")
	must(t, os.WriteFile(path, make([]byte, 1<<20), 0o644))
	rig.SyncFS(t, dir)
	f, err := os.Open(path)
	must(t, err)
	at := rig.Extents(t, f, 1<<20)
	f.Close()
	must(t, os.Remove(path))
	rig.SyncFS(t, dir)
	return at[0]
}

func TestExt4(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedTools(t, "mkfs.ext4", "debugfs", "dumpe2fs")
	for i, mkfs := range [][]string{{"-q", "-F", "-b", "4096"}, {"-q", "-F", "-b", "1024"},
		{"-q", "-F", "-O", "^extents,^64bit"}} {
		if i > 0 && !thorough() {
			break
		}
		t.Run(strings.Join(mkfs, " "), func(t *testing.T) {
			dev := vmtest.NewLoop(t, 64<<20, vmtest.LoopOptions{})
			p := plant(t, "ext4", dev, mkfs...)
			deleted, err := os.CreateTemp(p.dir, "open")
			must(t, err)
			defer deleted.Close()
			_, err = deleted.Write(make([]byte, 100_000))
			must(t, errors.Join(err, deleted.Sync()))
			open := rig.Extents(t, deleted, 100_000)
			must(t, os.Remove(deleted.Name()))
			gone := free(t, p.dir)
			for i := range p.at {
				r := one(t, dev, p.at[i])
				if r.Owner != OwnerFile || r.Path != p.file || r.Inode == 0 || !r.Damaged() ||
					!strings.HasPrefix(r.Filesystem, "ext4 on "+dev+", mounted on ") {
					t.Errorf("%+v", r)
				}
			}
			if r := one(t, dev, gone); r.Owner != OwnerFree {
				t.Errorf("%+v", r)
			}
			if r := one(t, dev, open[0]); r.Owner != OwnerFile || r.Path != "" || r.Inode == 0 ||
				!strings.Contains(r.What, "deleted") {
				t.Errorf("%+v", r)
			}
			live := whole(t, p)
			deleted.Close()
			must(t, unix.Unmount(p.dir, 0))
			r := one(t, dev, p.at[0])
			if r.Owner != OwnerFile || r.Path != "/some where/deep/the file" ||
				r.Filesystem != "ext4 on "+dev+", not mounted" {
				t.Errorf("%+v", r)
			}
			if r := one(t, dev, gone); r.Owner != OwnerFree {
				t.Errorf("%+v", r)
			}
			off := whole(t, p)
			for _, what := range []string{"metadata journal", "metadata inode table",
				"metadata block bitmap", "metadata directory"} {
				if thorough() && (live[what] == 0 || live[what] != off[what]) {
					t.Errorf("%s: %d blocks mounted, %d not", what, live[what], off[what])
				}
			}
		})
	}
}

func TestXFS(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedTools(t, "mkfs.xfs", "xfs_db")
	for i, mkfs := range [][]string{{"-q", "-f", "-m", "rmapbt=1,reflink=1"},
		{"-q", "-f", "-m", "rmapbt=0,reflink=1"}} {
		if i > 0 && !thorough() {
			break
		}
		t.Run(strings.Join(mkfs, " "), func(t *testing.T) {
			dev := vmtest.NewLoop(t, 352<<20, vmtest.LoopOptions{})
			p := plant(t, "xfs", dev, mkfs...)
			copied := filepath.Join(p.dir, "copy")
			must(t, clone(p.file, copied))
			gone := free(t, p.dir)
			found := ask(t, dev, p.at[0])
			if len(found.Rows) != 2 || found.Rows[0].Owner != OwnerFile ||
				found.Rows[1].Owner != OwnerFile || found.Rows[0].Path == found.Rows[1].Path {
				t.Errorf("a block of two files: %+v", found.Rows)
			}
			for _, r := range found.Rows {
				if r.Path != p.file && r.Path != copied || r.Inode == 0 {
					t.Errorf("%+v", r)
				}
			}
			must(t, os.Remove(copied))
			// xfs gives up the blocks of deleted files some time later.
			rig.Until(t, "the copy's end", func() bool {
				rows := ask(t, dev, p.at[0]).Rows
				return len(rows) == 1 && rows[0].Owner == OwnerFile && rows[0].Path == p.file
			})
			rig.Until(t, "free space", func() bool {
				rows := ask(t, dev, gone).Rows
				return len(rows) == 1 && rows[0].Owner == OwnerFree
			})
			live := whole(t, p)
			must(t, unix.Unmount(p.dir, 0))
			r := one(t, dev, p.at[0])
			if r.Owner != OwnerFile || r.Path != "/some where/deep/the file" ||
				r.Filesystem != "xfs on "+dev+", not mounted" {
				t.Errorf("%+v", r)
			}
			if r := one(t, dev, gone); r.Owner != OwnerFree {
				t.Errorf("%+v", r)
			}
			if !thorough() {
				return
			}
			off := whole(t, p)
			for _, what := range []string{"metadata journal", "metadata inode table",
				"free free space", "file "} {
				if live[what] == 0 || live[what] != off[what] {
					t.Errorf("%s: %d blocks mounted, %d not", what, live[what], off[what])
				}
			}
		})
	}
}

// clone makes a file that shares its blocks with another one.
func clone(from, to string) error {
	a, err := os.Open(from)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.Create(to)
	if err != nil {
		return err
	}
	defer b.Close()
	return errors.Join(unix.IoctlFileClone(int(b.Fd()), int(a.Fd())), b.Sync())
}

func TestBtrfs(t *testing.T) {
	vmtest.NeedTools(t, "mkfs.btrfs", "btrfs")
	needTime(t)
	_ = exec.Command("modprobe", "btrfs").Run()
	dev := vmtest.NewLoop(t, 256<<20, vmtest.LoopOptions{})
	p := plant(t, "btrfs", dev, "-q", "-f")
	vmtest.Run(t, "btrfs", "subvolume", "create", filepath.Join(p.dir, "some where", "vol"))
	inner := filepath.Join(p.dir, "some where", "vol", "inner")
	must(t, os.WriteFile(inner, []byte(strings.Repeat("inner", 100_000)), 0o644))
	rig.SyncFS(t, p.dir)
	vmtest.Run(t, "btrfs", "subvolume", "snapshot", filepath.Join(p.dir, "some where", "vol"),
		filepath.Join(p.dir, "snap"))
	rig.SyncFS(t, p.dir)
	at := search(t, dev, make([]byte, 512), []byte(strings.Repeat("inner", 1000))[:512])
	found := ask(t, dev, rig.Extent{Start: at, Length: 512})
	paths := map[string]bool{}
	for _, r := range found.Rows {
		paths[r.Path] = r.Owner == OwnerFile && r.Inode != 0
	}
	if len(paths) != 2 || !paths[inner] || !paths[filepath.Join(p.dir, "snap", "inner")] {
		t.Errorf("%+v", found)
	}
	says := whole(t, p)
	for _, what := range []string{"file ", "free free space", "metadata superblock",
		"metadata tree of metadata, " + redundant} {
		if says[what] == 0 {
			t.Errorf("nothing is %s", what)
		}
	}
	// Mounted by its subvolume only.
	must(t, unix.Unmount(p.dir, 0))
	must(t, unix.Mount(dev, p.dir, "btrfs", 0, "subvol=snap"))
	found = ask(t, dev, rig.Extent{Start: at, Length: 512})
	paths = map[string]bool{}
	for _, r := range found.Rows {
		paths[r.Path] = true
	}
	if len(paths) != 2 || !paths[filepath.Join(p.dir, "inner")] ||
		!paths["/some where/vol/inner"] {
		t.Errorf("%+v", found)
	}
	must(t, unix.Unmount(p.dir, 0))
	if r := one(t, dev, rig.Extent{Start: at, Length: 512}); r.Owner != OwnerUnknown ||
		!strings.Contains(r.What, "mount it") {
		t.Errorf("%+v", r)
	}
}

// search returns the place of a device that begins with data.
func search(t *testing.T, dev string, b, data []byte) int64 {
	t.Helper()
	f, err := os.Open(dev)
	must(t, err)
	defer f.Close()
	for at := int64(0); ; at += 4096 {
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatalf("the data is not there: %v", err)
		}
		if bytes.Equal(b, data) {
			return at
		}
	}
}

// TestOthers: a file system that tells nothing is said to tell nothing.
func TestOthers(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedTools(t, "mkfs.vfat")
	_ = exec.Command("modprobe", "vfat").Run()
	dev := vmtest.NewLoop(t, 32<<20, vmtest.LoopOptions{})
	vmtest.Run(t, "mkfs.vfat", dev)
	at := rig.Extent{Start: 1 << 20, Length: 4096}
	if r := one(t, dev, at); r.Owner != OwnerUnknown || !strings.Contains(r.What, "mount it") ||
		r.Filesystem != "vfat on "+dev+", not mounted" {
		t.Errorf("%+v", r)
	}
	dir := mountOn(t, "vfat", dev)
	must(t, os.WriteFile(filepath.Join(dir, "file"), make([]byte, 100_000), 0o644))
	if r := one(t, dev, at); r.Owner != OwnerUnknown || r.Filesystem != "vfat on "+dev+
		", mounted on "+dir || !strings.Contains(r.What, "vfat") {
		t.Errorf("%+v", r)
	}
	must(t, unix.Unmount(dir, 0))
	empty := vmtest.NewLoop(t, 32<<20, vmtest.LoopOptions{})
	if r := one(t, empty, at); r.Owner != OwnerUnknown || r.What != "nothing that is known is on "+
		empty {
		t.Errorf("%+v", r)
	}
}

// TestStack: blocks are followed through a partition, a logical volume of two extents that lie the
// other way round, an encrypted volume and a loop device.
func TestStack(t *testing.T) {
	vmtest.NeedTools(t, "mkfs.ext4", "dmsetup", "sfdisk")
	needTime(t)
	if !vmtest.InGuest() {
		t.Skip("needs a kernel that knows partition tables: runs in guests")
	}
	const mib = 1 << 20
	disk := vmtest.NewLoop(t, 96*mib, vmtest.LoopOptions{Partitions: true})
	script := exec.Command("sfdisk", "-q", disk)
	script.Stdin = strings.NewReader("label: gpt\nstart=2048, size=64M\n")
	if out, err := script.CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	part := disk + "p1"
	volume := vmtest.NewDM(t, fmt.Sprintf("0 65536 linear %s 65536\n65536 65536 linear %s 0\n",
		part, part))
	top, skip := volume.Path, int64(0)
	if vmtest.UserMode() { // Debian's kernels have the ciphers in modules that are not on board
		skip = 8 * mib
		top = vmtest.NewDM(t, fmt.Sprintf("0 %d crypt aes-xts-plain64 %s 0 %s %d\n",
			(64*mib-skip)/512, strings.Repeat("0123456789abcdef", 8), volume.Path, skip/512)).Path
	}
	p := plant(t, "ext4", top, "-q", "-F")
	// down returns where a byte of the file system is on the disk.
	down := func(at int64) int64 {
		at = (at + skip + 32*mib) % (64 * mib)
		return at + mib
	}
	for _, e := range p.at {
		for at := e.Start; at < e.End(); at += 128 << 10 {
			r := one(t, disk, rig.Extent{Start: down(at), Length: 4096})
			if r.Owner != OwnerFile || r.Path != p.file || !strings.HasPrefix(r.Filesystem,
				"ext4 on "+top+", ") {
				t.Fatalf("%d: %+v", at, r)
			}
		}
	}
	if r := one(t, disk, rig.Extent{Start: 0, Length: 4096}); r.Owner != OwnerMetadata ||
		r.What != "partition table" {
		t.Errorf("%+v", r)
	}
	if r := one(t, disk, rig.Extent{Start: 80 * mib, Length: 4096}); r.Owner != OwnerUnknown ||
		r.What != "outside of all partitions" {
		t.Errorf("%+v", r)
	}
	// A target that is not followed.
	must(t, unix.Unmount(p.dir, 0))
	delayed := vmtest.NewLoop(t, 32*mib, vmtest.LoopOptions{})
	vmtest.Modprobe(t, "dm-delay")
	vmtest.NewDM(t, fmt.Sprintf("0 65536 delay %s 0 0\n", delayed))
	if r := one(t, delayed, rig.Extent{Start: 0, Length: 4096}); r.Owner != OwnerUnknown ||
		!strings.Contains(r.What, `target "delay" is not followed`) {
		t.Errorf("%+v", r)
	}
}

// TestElsewhere: a file system that is mounted in another mount namespace only is looked into.
func TestElsewhere(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedTools(t, "mkfs.ext4")
	dev := vmtest.NewLoop(t, 64<<20, vmtest.LoopOptions{})
	p := plant(t, "ext4", dev, "-q", "-F")
	must(t, unix.Unmount(p.dir, 0))
	rig.MountElsewhere(t, dev, p.dir)
	if r := one(t, dev, p.at[0]); r.Owner != OwnerFile || r.Path != p.file ||
		!strings.Contains(r.Filesystem, " in the mount namespace of process ") {
		t.Errorf("%+v", r)
	}
}

// TestManyBlocks: 10,000 blocks of hundreds of files take one walk.
func TestManyBlocks(t *testing.T) {
	vmtest.NeedTools(t, "mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "xfs_db", "debugfs", "dumpe2fs")
	needTime(t)
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		dev := vmtest.NewLoop(t, 400<<20, vmtest.LoopOptions{})
		force := map[string]string{"ext4": "-F", "xfs": "-f", "btrfs": "-f"}[kind]
		p := plant(t, kind, dev, "-q", force)
		var places []rig.Extent
		owner := map[int64]string{}
		for i := range 250 {
			path := fmt.Sprintf("%s/many%d", p.dir, i)
			must(t, os.WriteFile(path, make([]byte, 80*4096), 0o644))
			f, err := os.Open(path)
			must(t, err)
			must(t, f.Sync())
			for _, e := range rig.Extents(t, f, 80*4096) {
				for at := e.Start; at < e.End(); at += 8192 {
					places = append(places, rig.Extent{Start: at, Length: 512})
					owner[at/512] = path
				}
			}
			f.Close()
		}
		check := func(how, point string) {
			t.Helper()
			start := time.Now()
			found := ask(t, dev, places...)
			t.Logf("%s %s: %d blocks in %s", kind, how, len(places), time.Since(start))
			for _, r := range found.Rows {
				want := strings.Replace(owner[int64(r.Block)], p.dir, point, 1)
				if r.Path != want && kind != "btrfs" { // which tells addresses of its own
					t.Fatalf("%+v, want %s", r, want)
				}
			}
		}
		if len(places) < 10_000 {
			t.Fatalf("only %d blocks", len(places))
		}
		check("mounted", p.dir)
		must(t, unix.Unmount(p.dir, 0))
		if kind != "btrfs" {
			check("not mounted", "")
		}
	}
}

// TestNames: names of any bytes are told as they are by a mounted file system. Of one that is not,
// those that its tools cannot tell safely are not told, and no other file has them.
func TestNames(t *testing.T) {
	vmtest.NeedTools(t, "mkfs.ext4", "mkfs.xfs", "xfs_db", "debugfs", "dumpe2fs")
	needTime(t)
	for _, kind := range []string{"ext4", "xfs"} {
		dev := vmtest.NewLoop(t, 400<<20, vmtest.LoopOptions{})
		p := plant(t, kind, dev, "-q", map[string]string{"ext4": "-F", "xfs": "-f"}[kind])
		big := filepath.Join(p.dir, "large directory")
		must(t, os.Mkdir(big, 0o755))
		for i := range 3000 {
			must(t, os.WriteFile(fmt.Sprintf("%s/%0250d", big, i), nil, 0o644))
		}
		names := []string{strings.Repeat("l", 255), "\xff\xfe not UTF-8", `a "quoted" name\`,
			"\x1b[31mred", "line\n13\t", "x\nblock 9", " ", "end\n"}
		at := map[string]rig.Extent{}
		for _, name := range names {
			f, err := os.Create(filepath.Join(big, name))
			must(t, err)
			_, err = f.Write(make([]byte, 4096))
			must(t, errors.Join(err, f.Sync()))
			at[name] = rig.Extents(t, f, 4096)[0]
			must(t, f.Close())
		}
		for name, e := range at {
			if r := one(t, dev, e); r.Path != filepath.Join(big, name) || r.Owner != OwnerFile {
				t.Errorf("%s: %q: %+v", kind, name, r)
			}
		}
		must(t, unix.Unmount(p.dir, 0))
		for name, e := range at {
			r := one(t, dev, e)
			if r.Owner != OwnerFile || r.Inode == 0 || r.Path != "" &&
				r.Path != "/large directory/"+name || !strings.ContainsAny(name, "\n\x1b") &&
				r.Path == "" && kind == "ext4" {
				t.Errorf("%s not mounted: %q: %+v", kind, name, r)
			}
		}
	}
}

// proves checks that a device is proven to have free space, or that one line says why not.
func proves(t *testing.T, dev, why string) {
	t.Helper()
	p, err := Prove(context.Background(), Device{Path: dev, BlockSize: blockSize},
		[]Run{{0, uint64(vmtest.Sectors(t, dev)), "pending"}})
	must(t, err)
	defer p.Close()
	if (len(p.Free) > 0) != (why == "") || why != "" && (len(p.Notes) != 1 ||
		!strings.Contains(p.Notes[0], why)) {
		t.Errorf("%s: %d free runs, it says %q, want %q", dev, len(p.Free), p.Notes, why)
	}
}

// TestOddFileSystems: of what is damaged, larger than its device, in use by fsck, or on another
// device in part, one line says why nothing is proven, or it is told.
func TestOddFileSystems(t *testing.T) {
	vmtest.NeedTools(t, "mkfs.ext4", "mke2fs", "mkfs.xfs", "xfs_db", "debugfs", "dumpe2fs", "dd",
		"xfs_logprint")
	needTime(t)
	const mib = 1 << 20
	loop := func(size int64) string { return vmtest.NewLoop(t, size, vmtest.LoopOptions{}) }
	patch := func(dev string, at int64, b ...byte) {
		t.Helper()
		f, err := os.OpenFile(dev, os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteAt(b, at)
		must(t, errors.Join(err, f.Sync(), f.Close()))
	}
	for kind, force := range map[string]string{"ext4": "-F", "xfs": "-f"} {
		good := loop(400 * mib)
		vmtest.Run(t, "mkfs."+kind, "-q", force, good)
		proves(t, good, "")
		// fsck, and others, hold it exclusively.
		f, err := os.OpenFile(good, os.O_RDWR|unix.O_EXCL, 0)
		must(t, err)
		proves(t, good, "it is in use")
		must(t, f.Close())
		small := loop(350 * mib)
		vmtest.Run(t, "dd", "if="+good, "of="+small, "bs=1M", "count=350")
		proves(t, small, "larger than its device")
		if r := one(t, small, rig.Extent{Start: 320 * mib, Length: 4096}); r.Owner == OwnerFile {
			t.Errorf("%+v", r)
		}
	}
	// Superblocks that make no sense.
	broken := loop(64 * mib)
	vmtest.Run(t, "mkfs.ext4", "-q", "-F", broken)
	patch(broken, 1024+0x18, 99)
	if r := one(t, broken, rig.Extent{Start: 32 * mib, Length: 4096}); r.Owner != OwnerUnknown {
		t.Errorf("%+v", r)
	}
	broken = loop(400 * mib)
	vmtest.Run(t, "mkfs.xfs", "-q", "-f", broken)
	patch(broken, 84, 0, 0, 0, 0) // blocks of a group
	if r := one(t, broken, rig.Extent{Start: 32 * mib, Length: 4096}); r.Owner != OwnerUnknown {
		t.Errorf("%+v", r)
	}
	if p, err := Prove(context.Background(), Device{Path: broken, BlockSize: blockSize},
		[]Run{{0, 1 << 10,
			"pending"}}); err != nil || len(p.Free) > 0 {
		t.Errorf("%+v, %v", p, err)
	}
	// The journal on another device.
	journal, data := loop(32*mib), loop(64*mib)
	vmtest.Run(t, "mke2fs", "-q", "-F", "-b", "4096", "-O", "journal_dev", journal)
	vmtest.Run(t, "mkfs.ext4", "-q", "-F", "-b", "4096", "-J", "device="+journal, data)
	proves(t, data, "")
	if r := one(t, journal, rig.Extent{Start: 16 * mib, Length: 4096}); r.Owner == OwnerFree {
		t.Errorf("%+v", r)
	}
}
