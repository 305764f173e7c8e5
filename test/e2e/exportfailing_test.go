package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestExportFailing exports a stopped set from a disk of which ever less reads: it says the same as
// before, writes nothing, and in the end says in one line that there is nothing to read.
func TestExportFailing(t *testing.T) {
	vmtest.Long(t)
	vmtest.NeedUblk(t)
	rig.Guard(t, 4*time.Minute)
	const bs = 512
	d, s, lay := rig.Serve(t, rig.KindLoop, 16, bs, "1MiB")
	at := func(i int64) int64 { return lay.Head + i*(64<<10) }
	d.SetBad(t, []rig.Extent{rig.At(at(0), bs), rig.At(at(1), 8*bs), rig.At(at(2), bs)})
	f := rig.Open(t, s.Dev)
	f.Fill(t, at(0), at(0)+bs, 1)
	buf := rig.Aligned(8 * bs)
	for _, off := range []int64{at(1), at(2)} {
		if err := f.Read(buf, off); err != syscall.EIO {
			t.Fatal(err)
		}
	}
	f.Close()
	s.Stop(t)
	formats := []string{"badblocks", "ddrescue", "json", "csv", "dmsetup"}
	said := map[string]string{}
	for _, format := range formats {
		said[format] = rig.Want(t, 0, "export", d.Path, "--format", format).Stdout
	}
	if len(said["badblocks"]) == 0 {
		t.Fatal("nothing is bad")
	}
	for _, bad := range [][]rig.Extent{
		{rig.At(0, 4096)},        // the first superblock
		{rig.At(0, lay.Head)},    // all superblocks at the start, and mirror A
		{rig.At(0, d.Size-4096)}, // all but the last superblock
		{rig.At(0, d.Size)},      // all of it
	} {
		d.SetBad(t, bad)
		dead := bad[0].Length > d.Size/2
		for _, format := range formats {
			began := time.Now()
			r := rig.Remap(t, "export", d.Path, "--format", format)
			t.Logf("%v: %s: %v", bad, format, time.Since(began))
			switch {
			case dead && (r.Code == 0 || strings.Count(r.Stderr, "\n") != 1 ||
				!strings.Contains(r.Stderr, d.Path)):
				t.Errorf("%v: %s: exit code %d: %s", bad, format, r.Code, r.Stderr)
			case !dead && (r.Code != 0 || r.Stdout != said[format]):
				t.Errorf("%v: %s: exit code %d\n%s%s", bad, format, r.Code, r.Stdout, r.Stderr)
			}
		}
	}
	d.SetBad(t, nil)
}
