package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/fill"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestFillFromFiles: damaged files are filled from a backup of the files, if the rest of each
// equals it. Files that differ, have another size or are not in the backup are left alone.
func TestFillFromFiles(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	if !vmtest.Full() {
		t.Skip("it takes a minute where a guest is emulated; UBLK_REMAP_FULL=1 runs it")
	}
	useRuntimeDir(t)
	rng := rig.Random(t)
	for _, fs := range []string{"ext4", "xfs"} {
		t.Run(fs, func(t *testing.T) {
			loop := vmtest.NewLoop(t, 400<<20, vmtest.LoopOptions{})
			dm := vmtest.NewDM(t, vmtest.LinearTable(t, loop))
			rig.Want(t, 0, "create", dm.Path, "--name", "f"+fs, "--spare", "2MiB")
			dev := rig.StartDevice(t, dm.Path)
			on, start := dev, int64(0)
			if fs == "xfs" { // in a partition
				start = 16384
				cmd := exec.Command("sfdisk", "-q", dev)
				cmd.Stdin = strings.NewReader("label: gpt\n16384\n")
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("sfdisk: %v: %s", err, out)
				}
				on += "p1"
				rig.Until(t, "the partition", func() bool {
					_, err := os.Stat(on)
					return err == nil
				})
			}
			vmtest.Mkfs(t, fs, on)
			dir := vmtest.Mount(t, fs, on)
			// The first 2 MiB of the device live elsewhere on the disk.
			writeAt(t, filepath.Join(dir, "filler"), make([]byte, 4<<20), 0)
			backup := t.TempDir()
			if err := os.MkdirAll(filepath.Join(dir, "a"), 0o700); err != nil {
				t.Fatal(err)
			}
			contents := map[string][]byte{}
			names := []string{"good", "a/one", "a/tail", "differs", "shorter", "absent", "near"}
			for _, name := range names {
				b := make([]byte, 600_000+rng.IntN(5000))
				for i := range b {
					b[i] = byte(rng.Uint32())
				}
				contents[name] = b
				for _, d := range []string{dir, backup} {
					path := filepath.Join(d, name)
					if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
						t.Fatal(err)
					}
					writeAt(t, path, b, 0)
				}
			}
			rig.Run(t, "sync")
			bad := spoilFiles(t, dir, names[1:], contents, start)
			if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
				t.Fatal(err)
			}
			dm.Swap(t, vmtest.ErrorTable(t, loop, bad...))
			d := rig.Open(t, dev)
			b := rig.Aligned(512)
			for _, x := range bad {
				for s := x.Start; s < x.Start+x.Count; s++ {
					_ = d.Read(b, s*512)
				}
			}
			d.Close()
			// What makes a backup useless for its file.
			writeAt(t, filepath.Join(backup, "differs"), []byte("other"), 7)
			writeAt(t, filepath.Join(backup, "shorter"), []byte("longer"), 700_000)
			if err := os.Remove(filepath.Join(backup, "absent")); err != nil {
				t.Fatal(err)
			}
			// It differs in a good sector of a page that has a bad one.
			near := slices.Clone(contents["near"])
			near[300_000/4096*4096+4095] ^= 1
			writeAt(t, filepath.Join(backup, "near"), near, 0)

			rig.Want(t, exit.Usage, "fill", dev, "--files", backup, "--map", "x")
			rig.Want(t, exit.NotFound, "fill", dev, "--files", filepath.Join(backup, "none"))
			var itself filledFiles
			parseJSON(t, rig.Want(t, 0, "fill", dev, "--files", dir, "--json").Stdout, &itself)
			for _, f := range itself.Files {
				if f.State != fill.StateLeft || !strings.Contains(f.Why, "is the file itself") {
					t.Errorf("its own backup: %+v", f)
				}
			}
			pending := rig.StatusOf(t, dev).Pending
			for _, args := range [][]string{{"--dry-run"}, nil} {
				var out filledFiles
				args = append([]string{"fill", dev, "--files", backup, "--json"}, args...)
				parseJSON(t, rig.Want(t, 0, args...).Stdout, &out)
				want := map[string]string{"a/one": "", "a/tail": "", "differs": "byte 7 differs",
					"shorter": "bytes, and the backup", "absent": "no such file",
					"near": "differs from the backup"}
				for _, f := range out.Files {
					name, _ := filepath.Rel(dir, f.Path)
					why, ok := want[name]
					delete(want, name)
					if !ok || (why == "") != (f.State == fill.StateFilled) ||
						!strings.Contains(f.Why, why) || why == "" && f.Filled != f.Bad {
						t.Errorf("%v: %+v", args, f)
					}
				}
				if len(want) > 0 {
					t.Errorf("%v: not told: %v", args, want)
				}
				if len(args) > 5 && rig.StatusOf(t, dev).Pending != pending {
					t.Error("a dry run filled something")
				}
			}
			for _, name := range names[:3] {
				got, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil || !bytes.Equal(got, contents[name]) {
					t.Errorf("%s is not as it was (%v)", name, err)
				}
			}
			for _, name := range names[3:] {
				if _, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
					t.Errorf("%s was filled", name)
				}
			}
			vmtest.Unmount(t, dir)
			rig.Want(t, 0, "stop", dev)
			rig.Want(t, 0, "metadata", "check", dm.Path)
		})
	}
}

// spoilFiles returns sectors of files, by their place on the device: three in the middle of each,
// and the last one of a/tail. The file system begins at sector start.
func spoilFiles(t *testing.T, dir string, names []string,
	contents map[string][]byte, start int64) (bad []vmtest.Extent) {
	t.Helper()
	for _, name := range names {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		all := rig.Extents(t, f, int64(len(contents[name])))
		f.Close()
		if len(all) != 1 {
			t.Fatalf("%s has %d extents", name, len(all))
		}
		bad = append(bad, vmtest.Extent{Start: all[0].Start/512 + 300_000/4096*8 + 1, Count: 3})
		if name == "a/tail" {
			bad = append(bad, vmtest.Extent{Start: all[0].Start/512 +
				int64(len(contents[name])-1)/512, Count: 1})
		}
	}
	for i := range bad {
		bad[i].Start += start
	}
	slices.SortFunc(bad, func(a, b vmtest.Extent) int { return int(a.Start - b.Start) })
	return bad
}
