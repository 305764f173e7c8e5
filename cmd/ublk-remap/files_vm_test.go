package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/files"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// damaged is a device with an ext4 on it, of which some places cannot be read any more: of a file,
// of free space, of a directory and of an inode table.
type damaged struct {
	*rig.Set
	disk      *rig.Disk
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
	layout := rig.LayoutOf(t, d.disk.Path)
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
		bad = append(bad, layout.HomesOnBacking(e)...)
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
