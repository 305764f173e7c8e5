package files

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
	must(t, unix.Mount(dev, dir, kind, 0, ""))
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
	found, err := Find(context.Background(), Device{dev, blockSize}, runs)
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
	found := ask(t, p.dev, rig.Extent{Start: 0, Length: p.size})
	says := map[string]uint64{}
	for _, r := range found.Rows {
		says[string(r.Owner)+" "+r.What] += r.Count
	}
	t.Log(p.dev, says, found.Notes)
	return says
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
	vmtest.NeedTools(t, "mkfs.ext4", "debugfs", "dumpe2fs")
	for _, mkfs := range [][]string{{"-q", "-F", "-b", "4096"}, {"-q", "-F", "-b", "1024"},
		{"-q", "-F", "-O", "^extents,^64bit"}} {
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
				if live[what] == 0 || live[what] != off[what] {
					t.Errorf("%s: %d blocks mounted, %d not", what, live[what], off[what])
				}
			}
		})
	}
}
