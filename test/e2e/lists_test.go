package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestListsOfBadblocks: for each size of blocks the real badblocks finds exactly what is exported,
// of the device and of a part of it, and its list is imported as that.
func TestListsOfBadblocks(t *testing.T) {
	vmtest.Long(t)
	vmtest.NeedUblk(t)
	vmtest.NeedTools(t, "badblocks")
	rig.Guard(t, 4*time.Minute)
	const bs, size = 512, 20
	rng := rig.Random(t)
	d, s, lay := rig.Serve(t, rig.KindLoop, size, bs, "1MiB")
	// badblocks reads whole pages, however small its blocks are.
	const page = 4096
	var bad, homes []rig.Extent
	for range 12 {
		bad = append(bad, rig.At(lay.Head+rng.Int64N((8<<20)/page)*page, (1+rng.Int64N(3))*page))
	}
	for _, e := range rig.Merge(bad) {
		homes = append(homes, lay.HomesOnBacking(e)...)
	}
	d.SetBad(t, homes)
	f := rig.OpenToRead(t, s.Dev)
	buf := rig.Aligned(bs)
	for _, e := range rig.Merge(bad) {
		for at := e.Start; at < e.End(); at += bs {
			if err := f.Read(buf, at); err != syscall.EIO {
				t.Fatalf("byte %d: %v", at, err)
			}
		}
	}
	devSize := f.Size
	f.Close()
	// A part of the device, as a partition has it.
	from, length := int64(1<<20), int64(8<<20)
	part := vmtest.NewDM(t, fmt.Sprintf("0 %d linear %s %d\n", length/512, s.Dev, from/512))
	other := rig.NewDisk(t, rig.KindLoop, size, bs)
	copied := create(t, other, "--spare", "1MiB")
	copied.Start(t)
	for block := int64(512); block <= 65536; block *= 2 {
		for _, of := range []struct {
			dev, offset string
			size        int64
		}{{s.Dev, "0", devSize}, {part.Path, fmt.Sprint(from), length}} {
			list := filepath.Join(t.TempDir(), "list")
			rig.Run(t, "badblocks", "-b", fmt.Sprint(block), "-o", list, of.dev,
				fmt.Sprint(of.size/block-1))
			found, err := os.ReadFile(list)
			if err != nil {
				t.Fatal(err)
			}
			export := func(name string) string {
				return rig.Want(t, 0, "export", name, "--format", "badblocks", "--block-size",
					fmt.Sprint(block), "--offset", of.offset, "--length",
					fmt.Sprint(of.size/block*block)).Stdout
			}
			if said := export(s.Name); said != string(found) || said == "" {
				t.Errorf("%s: blocks of %d: badblocks finds %q, export says %q", of.dev, block,
					found, said)
			}
			rig.Want(t, 0, "import", copied.Name, list, "--format", "badblocks", "--block-size",
				fmt.Sprint(block), "--offset", of.offset, "--mark-only")
			if said := export(copied.Name); said != string(found) {
				t.Errorf("%s: blocks of %d: imported is %q, want %q", of.dev, block, said, found)
			}
		}
	}
	if n := strings.Count(rig.Want(t, 0, "export", copied.Name, "--format", "badblocks").Stdout,
		"\n"); n == 0 {
		t.Error("nothing was imported")
	}
}
