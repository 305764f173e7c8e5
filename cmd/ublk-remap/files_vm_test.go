package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/progress"
	"ublkremap/internal/control"
	"ublkremap/internal/files"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// damaged is a device with an ext4 on it, of which some places cannot be read any more: of a file,
// of free space, of a directory and of an inode table.
type damaged struct {
	*rig.Set
	disk      *rig.Disk
	layout    rig.Layout
	dir, file string
	data      rig.Extent // of the file
	free      rig.Extent
}

// newDamaged makes the device and has the bad blocks read, so that they are pending.
func newDamaged(t *testing.T) *damaged {
	t.Helper()
	vmtest.NeedUblk(t)
	vmtest.NeedTools(t, "mkfs.ext4", "debugfs", "dumpe2fs", "dmsetup")
	useRuntimeDir(t)
	d := &damaged{disk: rig.NewDisk(t, rig.KindLoop, 96, 512)}
	d.Set = rig.Create(t, d.disk.Path, "", "--spare", "2MiB")
	d.CheckAtEnd(t)
	d.layout = rig.LayoutOf(t, d.disk.Path)
	d.Start(t)
	rig.Mkfs(t, "ext4", d.Dev, "-b", "4096")
	d.dir = d.Mount(t, "ext4")
	d.file = filepath.Join(d.dir, "a file")
	d.data = rig.Reserve(t, d.file, 64<<10)[0]
	must(t, os.WriteFile(d.file, []byte(strings.Repeat("data", 16<<10)), 0o600))
	f, err := os.Open(d.file)
	must(t, err)
	rig.SyncFS(t, d.dir)
	d.data = rig.Extents(t, f, 64<<10)[0]
	must(t, f.Close())
	gone := filepath.Join(d.dir, "gone")
	d.free = rig.Reserve(t, gone, 64<<10)[0]
	must(t, os.Remove(gone))
	rig.SyncFS(t, d.dir)
	var bad []rig.Extent
	for _, e := range []rig.Extent{{Start: d.data.Start + 4096, Length: 1024},
		{Start: d.free.Start + 4096, Length: 1024}} {
		bad = append(bad, d.layout.HomesOnBacking(e)...)
	}
	d.disk.SetBad(t, bad)
	direct := rig.Open(t, d.Dev)
	defer direct.Close()
	for _, e := range []rig.Extent{d.data, d.free} {
		if err := direct.Read(rig.Aligned(8192), e.Start); err == nil {
			t.Fatal("bad blocks read")
		}
	}
	rig.Until(t, "four pending blocks", func() bool { return d.Status(t).Pending == 4 })
	return d
}

// owners is what files says.
func owners(t *testing.T, args ...string) (rows []files.Row) {
	t.Helper()
	rig.Parse(t, rig.Want(t, exit.Done, append([]string{"files", "--json"}, args...)...), &rows)
	return rows
}

// TestFilesOfBadBlocks: files tells what pending blocks hold, mounted and not, and named blocks.
func TestFilesOfBadBlocks(t *testing.T) {
	vmtest.OnOneKernel(t)
	if !vmtest.UserMode() && !vmtest.Full() {
		t.Skip("it takes long: runs under user-mode Linux and by make test-vm-full; TestHealFree " +
			"has the main part")
	}
	d := newDamaged(t)
	check := func(path, fs string) {
		t.Helper()
		rows := owners(t, d.Name)
		if len(rows) != 2 {
			t.Fatalf("%+v", rows)
		}
		for _, r := range rows {
			want := files.Row{Block: uint64(d.data.Start+4096) / 512, Count: 2, State: "pending",
				Fact: files.Fact{Owner: files.OwnerFile, Path: path, Inode: r.Inode,
					Filesystem: fs}}
			if r.Owner == files.OwnerFree {
				want.Block, want.Fact = uint64(d.free.Start+4096)/512, files.Fact{
					Owner: files.OwnerFree, Filesystem: fs, What: "free space"}
			}
			if r != want || (r.Inode == 0) != (r.Owner == files.OwnerFree) {
				t.Errorf("got  %+v\nwant %+v", r, want)
			}
		}
		if text := rig.Want(t, exit.Done, "files", d.Name).Stdout; !strings.HasSuffix(text,
			"1 file is damaged: "+path+"\n") {
			t.Errorf("it says:\n%s", text)
		}
	}
	check(d.file, fmt.Sprintf("ext4 on %s, mounted on %s", d.Dev, d.dir))
	if text := rig.Want(t, exit.Done, "status", d.Name).Stdout; !strings.Contains(strings.Join(
		strings.Fields(text), " "), " files 1 file is damaged: "+d.file) {
		t.Errorf("status says:\n%s", text)
	}
	var st control.Status
	rig.Parse(t, rig.Want(t, exit.Done, "status", d.Name, "--json", "--files"), &st)
	if st.Files == nil || st.Files.Damaged != 1 || !st.Files.Complete ||
		st.Files.Metadata+st.Files.Unknown != 0 || st.Files.Paths[0] != d.file {
		t.Errorf("status says: %+v", st.Files)
	}
	st.Files = nil
	if rig.Parse(t, rig.Want(t, exit.Done, "status", d.Name, "--json"), &st); st.Files != nil {
		t.Errorf("status says without being asked: %+v", st.Files)
	}
	named := owners(t, d.Dev, fmt.Sprintf("%d+16", d.data.Start/512))
	if len(named) != 3 || named[0].State != "home" || named[1].State != "pending" ||
		named[0].Path != d.file || named[2].Path != d.file || named[2].Count != 6 {
		t.Errorf("%+v", named)
	}
	if rows := owners(t, d.Dev, "2", "--state", "home"); len(rows) != 1 ||
		rows[0].Owner != files.OwnerMetadata {
		t.Errorf("%+v", rows)
	}
	rig.Want(t, exit.Usage, "files", d.Name, "999999999")
	rig.Want(t, exit.Usage, "files", d.Name, "x")
	rig.Want(t, exit.Usage, "files", d.Name, "--state", "bad")
	rig.Want(t, exit.NotFound, "files", "nosuch")
	rig.Unmount(t, d.dir)
	check("/a file", fmt.Sprintf("ext4 on %s, not mounted", d.Dev))
}

// healed is what files --heal-free says.
func healed(t *testing.T, args ...string) (h freeHealed, said string) {
	t.Helper()
	r := rig.Want(t, exit.Done, append([]string{"files", "--heal-free", "--json"}, args...)...)
	rig.Parse(t, r, &h)
	return h, r.Stderr
}

// check reads the file and the free place of a device.
func (d *damaged) check(t *testing.T, freeReads bool) {
	t.Helper()
	direct := rig.Open(t, d.Dev)
	defer direct.Close()
	b := rig.Aligned(4096)
	must(t, direct.Read(b, d.data.Start))
	if string(b[:8]) != "datadata" {
		t.Errorf("the file begins with %q", b[:8])
	}
	if err := direct.Read(b, d.data.Start+4096); err == nil {
		t.Error("the bad blocks of the file read")
	}
	if err := direct.Read(b, d.free.Start+4096); (err == nil) != freeReads {
		t.Errorf("the bad blocks of free space: %v", err)
	}
}

// TestHealFree: pending blocks of free space are overwritten, those of a file are not, mounted and
// not.
func TestHealFree(t *testing.T) {
	vmtest.OnOneKernel(t)
	for _, mounted := range []bool{true, false} {
		if !mounted && !vmtest.UserMode() && !vmtest.Full() {
			break // it takes long in an emulated machine
		}
		t.Run(fmt.Sprintf("mounted %v", mounted), func(t *testing.T) {
			d := newDamaged(t)
			if !mounted {
				rig.Unmount(t, d.dir)
			}
			place := uint64(d.free.Start+4096) / 512
			h, _ := healed(t, d.Name, "--dry-run")
			if len(h.Free) != 1 || h.Free[0].Block != place || h.Free[0].Count != 2 || !h.DryRun ||
				h.Healed != 0 {
				t.Fatalf("%+v", h)
			}
			d.check(t, false)
			if !mounted {
				d.notProven(t)
			} else if rows := owners(t, d.Name); len(rows) != 2 || !slices.ContainsFunc(rows,
				func(r files.Row) bool { return r.Path == d.file && r.Damaged() }) {
				t.Errorf("%+v", rows)
			}
			if h, _ = healed(t, d.Name); h.Healed != 2 || h.Failed+h.Written+h.Reads != 0 {
				t.Errorf("%+v", h)
			}
			d.check(t, true)
			if st := d.Status(t); st.Pending != 2 {
				t.Errorf("%d blocks are pending", st.Pending)
			}
			if h, _ = healed(t, d.Name); len(h.Free) != 0 {
				t.Errorf("again: %+v", h)
			}
			if mounted {
				rig.Unmount(t, d.dir)
			}
			if !mounted {
				rig.Fsck(t, "ext4", d.Dev)
			}
		})
	}
	rig.Want(t, exit.Usage, "files", "x", "--heal-free", "--state", "lost")
}

// notProven checks that nothing is healed while somebody has the device open to write, or if the
// file system is not clean.
func (d *damaged) notProven(t *testing.T) {
	t.Helper()
	holder := rig.HoldOpen(t, d.Dev, "w")
	if h, said := healed(t, d.Name); len(h.Free) != 0 || !strings.Contains(said, "is open in") {
		t.Errorf("open elsewhere: %+v %s", h, said)
	}
	holder.End()
	vmtest.Run(t, "debugfs", "-w", "-R", "set_super_value state 0", d.Dev)
	if h, said := healed(t, d.Name); len(h.Free) != 0 || !strings.Contains(said, "not clean") {
		t.Errorf("not clean: %+v %s", h, said)
	}
	vmtest.Run(t, "debugfs", "-w", "-R", "set_super_value state 1", d.Dev)
}

// TestHealFreeTooLate: a file gets the blocks after they were proven to be free. They are left
// alone.
func TestHealFreeTooLate(t *testing.T) {
	vmtest.OnOneKernel(t)
	if !vmtest.UserMode() && !vmtest.Full() {
		t.Skip("it takes long: runs under user-mode Linux and by make test-vm-full")
	}
	d := newDamaged(t)
	st := d.Status(t)
	found, err := files.Prove(t.Context(), files.Device{Path: d.Dev, BlockSize: 512},
		[]files.Run{{Block: 0, Count: uint64(st.SizeBlocks), State: "pending"}})
	must(t, err)
	defer found.Close()
	free := files.Run{Block: uint64(d.free.Start+4096) / 512, Count: 2}
	proven := false
	for _, p := range found.Free {
		proven = proven || p.Block <= free.Block && p.Block+p.Count >= free.Block+free.Count
	}
	if !proven {
		t.Fatalf("%+v", found.Free)
	}
	// The file takes all space there is.
	late := filepath.Join(d.dir, "late")
	f, err := os.Create(late)
	must(t, err)
	chunk := []byte(strings.Repeat("late", 256<<10))
	size := 0
	for err == nil {
		var n int
		n, err = f.Write(chunk)
		size += n
	}
	rig.SyncFS(t, d.dir)
	must(t, f.Close())
	if rows := owners(t, d.Name, fmt.Sprintf("%d+2", free.Block)); rows[0].Path != late {
		t.Fatalf("%+v", rows)
	}
	reply, err := control.NewClient(d.Name).Fill(t.Context(), free.Block, make([]byte, 1024))
	if err != nil || reply.Outcomes != "NN" {
		t.Fatalf("%+v, %v", reply, err)
	}
	must(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o200))
	got, err := os.ReadFile(late)
	must(t, err)
	if want := strings.Repeat("late", len(got)/4+1)[:len(got)]; string(got) != want ||
		len(got) != size {
		t.Errorf("the file has %d bytes of %d, and other data", len(got), size)
	}
}

// TestHealFreeLostAgain: blocks were proven to be free. Then they were written, and what was
// written was lost. They are left alone, so that the loss is seen.
func TestHealFreeLostAgain(t *testing.T) {
	if !vmtest.UserMode() && !vmtest.Full() {
		t.Skip("it takes long: runs under user-mode Linux and by make test-vm-full")
	}
	d := newDamaged(t)
	r := &control.Record{Name: d.Name, Device: d.Dev, BlockSize: 512,
		Blocks: uint64(d.Status(t).SizeBlocks)}
	bad, err := badRows(t.Context(), r, nil, 0)
	must(t, err)
	p, err := files.Prove(t.Context(), files.Device{Path: d.Dev, BlockSize: 512}, runsOf(bad))
	must(t, err)
	defer p.Close()
	place := rig.At(d.free.Start+4096, 1024)
	if len(bad) != 2 || len(p.Free) != 1 || p.Free[0].Block != uint64(place.Start/512) {
		t.Fatalf("bad are %+v, free %+v", bad, p.Free)
	}
	direct := rig.Open(t, d.Dev)
	defer direct.Close()
	data := rig.Aligned(1024)
	copy(data, strings.Repeat("late", 256))
	must(t, direct.Write(data, place.Start))
	var spares []rig.Extent
	for _, row := range d.Remaps(t) {
		if row.Spare != nil && uint64(row.Block) == p.Free[0].Block {
			spares = append(spares, rig.At(d.layout.Spare().Start+int64(*row.Spare)*512, 1024))
		}
	}
	if len(spares) != 1 {
		t.Fatalf("what was written lives in %v", spares)
	}
	d.disk.SetBad(t, rig.Merge(append(spares, d.disk.Bad...)))
	if direct.Read(data, place.Start) == nil {
		t.Fatal("what was written reads")
	}
	rig.Until(t, "four pending blocks", func() bool { return d.Status(t).Pending == 4 })

	h := &freeHealed{}
	out := progress.NewOut(io.Discard)
	bar := out.Start("healing")
	_, err = h.fill(t.Context(), r, p, bad, bar)
	bar.End()
	if err != nil || h.Healed != 0 || h.Written != 2 || h.Failed+h.Reads != 0 {
		t.Errorf("%+v, %v", h, err)
	}
	if direct.Read(data, place.Start) == nil || d.Status(t).Pending != 4 {
		t.Error("the loss is not seen any more")
	}
}

// TestFilesOfSlowBlocks: a block that the scrub finds slow to read is told with its owner.
func TestFilesOfSlowBlocks(t *testing.T) {
	vmtest.OnOneKernel(t)
	if !vmtest.UserMode() && !vmtest.Full() {
		t.Skip("it takes long: runs under user-mode Linux and by make test-vm-full")
	}
	vmtest.NeedUblk(t)
	vmtest.Modprobe(t, "dm-delay")
	useRuntimeDir(t)
	loop := vmtest.NewLoop(t, 96<<20, vmtest.LoopOptions{})
	dm := vmtest.NewDM(t, vmtest.LinearTable(t, loop))
	set := rig.Create(t, dm.Path, "", "--spare", "2MiB")
	layout := rig.LayoutOf(t, dm.Path)
	set.Start(t)
	rig.Mkfs(t, "ext4", set.Dev, "-b", "4096")
	dir := set.Mount(t, "ext4")
	must(t, os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 4<<20), 0o600))
	path := filepath.Join(dir, "slow file")
	must(t, os.WriteFile(path, make([]byte, 64<<10), 0o600))
	rig.SyncFS(t, dir)
	f, err := os.Open(path)
	must(t, err)
	place := rig.Extents(t, f, 64<<10)[0]
	must(t, f.Close())
	place.Length = 4096
	home := layout.HomesOnBacking(place)[0]
	size := vmtest.Sectors(t, loop)
	from, to := home.Start/512, home.End()/512
	dm.Swap(t, fmt.Sprintf("0 %d linear %s 0\n%d %d delay %s %d 2000\n%d %d linear %s %d\n", from,
		loop, from, to-from, loop, from, to, size-to, loop, to))
	rig.Want(t, exit.Done, "scrub", "start", set.Name, "--wait")
	for _, args := range [][]string{{set.Name, "--state", "slow"}, {set.Name, "--state", "slow",
		fmt.Sprintf("%d+32", place.Start/512)}} {
		rows := owners(t, args...)
		if len(rows) != 1 || rows[0].State != "slow" || rows[0].Path != path ||
			rows[0].Block != uint64(place.Start/512) || rows[0].Count != 8 {
			t.Errorf("%v: %+v", args, rows)
		}
	}
	if rows := owners(t, set.Name, fmt.Sprintf("%d+32", place.Start/512)); len(rows) != 2 ||
		rows[0].State != "slow" || rows[1].State != "home" {
		t.Errorf("%+v", rows)
	}
	block := place.Start / 512
	for args, want := range map[string]string{
		"badblocks --block-size 4096":                     "",
		"badblocks --block-size 4096 --slow":              fmt.Sprintln(block / 8),
		"badblocks --slow --block-size 512 --offset 1MiB": numbers(block-2048, 8),
		"badblocks --slow --block-size 512 --length 1MiB": "",
		"csv --slow": fmt.Sprintf("block,count,spare,state,cause,time\n%d,8,,slow,scrub,\n", block),
		"csv":        "block,count,spare,state,cause,time\n",
	} {
		if got := rig.Want(t, exit.Done, append([]string{"export", set.Name, "--format"},
			strings.Fields(args)...)...).Stdout; got != want {
			t.Errorf("export %s: %q, want %q", args, got, want)
		}
	}
	if text := rig.Want(t, exit.Done, "files", set.Name).Stdout; !strings.Contains(text,
		"0 files affected") {
		t.Errorf("it says %s", text)
	}
}

// numbers are lines with numbers that follow each other.
func numbers(first int64, count int) string {
	var b strings.Builder
	for i := range int64(count) {
		_, _ = fmt.Fprintln(&b, first+i)
	}
	return b.String()
}
