package files

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// places makes files and returns them with where they are.
func places(t *testing.T, dir string, n int) (paths []string, at []rig.Extent) {
	t.Helper()
	for i := range n {
		path := filepath.Join(dir, fmt.Sprintf("file%d", i))
		must(t, os.WriteFile(path, []byte(strings.Repeat("full", 25_000)), 0o600))
		paths = append(paths, path)
	}
	rig.SyncFS(t, dir)
	for _, path := range paths {
		f, err := os.Open(path)
		must(t, err)
		at = append(at, rig.Extents(t, f, 4096)[0])
		must(t, f.Close())
	}
	return paths, at
}

// meanwhile is a Progress that does something each time that a search walks through files.
type meanwhile struct {
	untold
	do    func(time int)
	times int
}

func (m *meanwhile) Unit(unit string) {
	if unit == "files" {
		m.do(m.times)
		m.times++
	}
}

// TestChangedMeanwhile: what is told of ext4 and of xfs holds for one state of it, or it is said
// that it changed.
func TestChangedMeanwhile(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedTools(t, "mkfs.ext4", "mkfs.xfs", "debugfs")
	for _, c := range []struct {
		kind string
		mkfs []string
	}{
		{"ext4", []string{"-q", "-F"}},
		{"xfs", []string{"-q", "-f", "-m", "rmapbt=1"}},
		{"xfs", []string{"-q", "-f", "-m", "rmapbt=0"}},
	} {
		_ = exec.Command("modprobe", c.kind).Run()
		dev := vmtest.NewLoop(t, 320<<20, vmtest.LoopOptions{})
		vmtest.Run(t, "mkfs."+c.kind, append(c.mkfs, dev)...)
		dir := mountOn(t, c.kind, dev)
		gone := func(path string) {
			must(t, os.Truncate(path, 0))
			rig.SyncFS(t, dir)
		}
		for _, m := range []struct {
			name    string
			files   int
			do      func(paths []string, time int)
			looks   int // that met a file
			changes bool
			owner   Owner
		}{
			{"nothing", 1, func([]string, int) {}, 1, false, OwnerFile},
			{"once", 1, func(paths []string, _ int) { gone(paths[0]) }, 1, false, OwnerFree},
			{"each time", looks, func(paths []string, time int) { gone(paths[time]) }, looks, true,
				""},
			{"elsewhere", 1, func([]string, int) {
				must(t, os.WriteFile(filepath.Join(dir, "other"), make([]byte, 50_000), 0o600))
				rig.SyncFS(t, dir)
			}, 1, false, OwnerFile},
		} {
			t.Run(fmt.Sprint(c.kind, c.mkfs, m.name), func(t *testing.T) {
				paths, at := places(t, dir, m.files)
				during := &meanwhile{do: func(time int) { m.do(paths, time) }}
				var runs []Run
				for _, e := range at {
					runs = append(runs, Run{uint64(e.Start / blockSize), 8, "home"})
				}
				found, err := Find(t.Context(), Device{Path: dev, BlockSize: blockSize,
					Progress: during}, runs)
				must(t, err)
				noted := strings.Contains(strings.Join(found.Notes, " "), unsettled)
				if during.times != m.looks || noted != m.changes ||
					m.owner != "" && (len(found.Rows) != 1 || found.Rows[0].Owner != m.owner) {
					t.Errorf("%d looks: %+v", during.times, found)
				}
			})
		}
	}
}

// TestBtrfsChangedMeanwhile: as TestChangedMeanwhile. Two files exchange their names after the
// first of them was told.
func TestBtrfsChangedMeanwhile(t *testing.T) {
	vmtest.NeedTools(t, "mkfs.btrfs")
	needTime(t)
	_ = exec.Command("modprobe", "btrfs").Run()
	dev := vmtest.NewLoop(t, 256<<20, vmtest.LoopOptions{})
	vmtest.Run(t, "mkfs.btrfs", "-q", "-f", "-m", "single", "-d", "single", dev)
	dir := mountOn(t, "btrfs", dev)
	one, other := filepath.Join(dir, "one"), filepath.Join(dir, "other")
	must(t, os.WriteFile(one, []byte(strings.Repeat("1", 4096)), 0o600))
	must(t, os.WriteFile(other, []byte(strings.Repeat("2", 4096)), 0o600))
	rig.SyncFS(t, dir)
	var pieces []piece
	for _, what := range []string{"1", "2"} {
		at := search(t, dev, make([]byte, 4096), []byte(strings.Repeat(what, 4096)))
		pieces = append(pieces, piece{at, at, 4096})
	}
	if pieces[0].at > pieces[1].at {
		t.Fatalf("the first file lies behind the second one: %v", pieces)
	}
	exchange := func(int) {
		must(t, unix.Renameat2(unix.AT_FDCWD, one, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE))
	}
	for _, m := range []struct {
		name    string
		do      func(time int)
		looks   int
		changes bool
	}{
		{"nothing", func(int) {}, 1, false},
		{"once", func(time int) {
			if time == 0 {
				exchange(time)
			}
		}, 2, false},
		{"each time", exchange, looks, true},
		{"elsewhere", func(time int) {
			path := filepath.Join(dir, fmt.Sprintf("third%d", time))
			must(t, os.WriteFile(path, nil, 0o600))
		}, 2, false},
	} {
		t.Run(m.name, func(t *testing.T) {
			rig.SyncFS(t, dir)
			b := mountedBtrfs(t, dev)
			asked := 0
			b.run = func(l *layout, logical int64, p piece) error {
				if asked++; asked%2 == 0 {
					m.do(asked/2 - 1)
				}
				return b.byExtent(l, logical, p)
			}
			must(t, b.find(pieces))
			if asked != 2*m.looks || len(b.notes) > 0 != m.changes || len(b.facts) != 2 {
				t.Fatalf("%d looks: %+v %q", asked/2, b.facts, b.notes)
			}
			if same := b.facts[0].fact.Path == b.facts[1].fact.Path; same != m.changes {
				t.Errorf("told are %q and %q", b.facts[0].fact.Path, b.facts[1].fact.Path)
			}
		})
	}
}
