package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

const (
	dmSector = 512
	dmStride = 131072 // bytes between two copies of dm-remap's metadata
)

// TestFromDMRemap takes a disk over from dm-remap, from images of both of its devices that
// testdata/dmremap/make.py has made: the device shows block by block what dm-remap showed, also
// after a restart, and errors where nothing tells what it showed. The spare device has bad sectors,
// in its metadata and where data lies. Images that leave a doubt change nothing.
func TestFromDMRemap(t *testing.T) {
	vmtest.Long(t)
	vmtest.NeedUblk(t)
	for _, bs := range []int64{512, 4096} {
		t.Run(fmt.Sprint(bs), func(t *testing.T) { testFromDMRemap(t, bs) })
	}
}

func testFromDMRemap(t *testing.T, bs int64) {
	rig.Guard(t, 4*time.Minute)
	disk, old := rig.NewDisk(t, rig.KindLoop, 16, bs), rig.NewDisk(t, rig.KindLoop, 2, 512)
	home := dmImage(t, "main")
	writeImage(t, disk.Path, home)
	spare := vmtest.NewLoop(t, 16<<20, vmtest.LoopOptions{BlockSize: uint32(bs)})
	args := []string{"--in-place", "--force", "--yes", "--from-dm-remap", old.Path}
	for name, code := range map[string]int{"damaged": rig.ExitUsage, "contradiction": rig.ExitUsage,
		"outside": rig.ExitRefused, "other-main": rig.ExitRefused, "other-spare": rig.ExitRefused,
		"other-sectors": rig.ExitUsage, "other-version": rig.ExitUsage} {
		writeImage(t, old.Path, dmImage(t, name))
		r := rig.Want(t, code, append([]string{"create", disk.Path, "--spare-device", spare},
			args...)...)
		if strings.Count(r.Stderr, "\n") != 1 || !strings.Contains(r.Stderr, old.Path) {
			t.Errorf("%s: %q", name, r.Stderr)
		}
	}
	writeImage(t, old.Path, dmImage(t, "spare"))
	var every []rig.Extent
	for i := range int64(5) {
		every = append(every, rig.At(i*dmStride+4096, dmSector))
	}
	old.SetBad(t, every)
	r := rig.Want(t, rig.ExitUsage, append([]string{"create", disk.Path, "--spare-device", spare},
		args...)...)
	if !strings.Contains(r.Stderr, "no copy of dm-remap's metadata reads") {
		t.Errorf("%q", r.Stderr)
	}
	if got := contents(t, disk.Path, bs); len(got.bad) > 0 || !bytes.Equal(got.data, home) {
		t.Fatal("a refusal changed the disk")
	}

	// One of the two newest copies does not read, and neither does the data of one sector.
	const badPlace = 2104
	old.SetBad(t, []rig.Extent{every[2], rig.At(badPlace*dmSector, dmSector)})
	want := dmShown(t, home, bs, badPlace)
	s := rig.Create(t, disk.Path, spare, args...)
	s.CheckAtEnd(t)
	for range 2 {
		s.Start(t)
		got := contents(t, s.Dev, bs)
		if fmt.Sprint(got.bad) != fmt.Sprint(want.bad) {
			t.Errorf("blocks %v cannot be read, want %v", got.bad, want.bad)
		}
		for b := int64(0); b < int64(len(want.data))/bs; b++ {
			if at := b * bs; !bytes.Equal(got.data[at:at+bs], want.data[at:at+bs]) {
				t.Errorf("block %d shows %.24q, want %.24q", b, got.data[at:], want.data[at:])
			}
		}
		s.Stop(t)
	}
	// A block without a copy is well again once it is written.
	s.Start(t)
	f := rig.Open(t, s.Dev)
	defer f.Close()
	f.Fill(t, want.bad[0]*bs, (want.bad[0]+1)*bs, 3)
	buf := rig.Aligned(int(bs))
	if err := f.Read(buf, want.bad[0]*bs); err != nil {
		t.Error(err)
	}
	rig.WantPattern(t, buf, want.bad[0]*bs, 3)
	if err := f.Read(buf, want.bad[1]*bs); err != syscall.EIO {
		t.Errorf("block %d: %v", want.bad[1], err)
	}
}

// dmShown is what dm-remap showed, in blocks of bs bytes. bad is a sector of its spare device that
// does not read. A block of which a sector is not known is bad.
func dmShown(t *testing.T, home []byte, bs, bad int64) (h held) {
	t.Helper()
	var shown map[string]*int64
	text, err := os.ReadFile("testdata/dmremap/shown.json")
	if err == nil {
		err = json.Unmarshal(text, &shown)
	}
	if err != nil {
		t.Fatal(err)
	}
	old := dmImage(t, "spare")
	h.data = bytes.Clone(home)
	lost := map[int64]bool{}
	for key, place := range shown {
		sector, err := strconv.ParseInt(key, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if place == nil || *place == bad {
			lost[sector*dmSector/bs] = true
			continue
		}
		copy(h.data[sector*dmSector:][:dmSector], old[*place*dmSector:])
	}
	for b := int64(0); b < int64(len(home))/bs; b++ {
		if lost[b] {
			clear(h.data[b*bs : (b+1)*bs])
			h.bad = append(h.bad, b)
		}
	}
	return h
}

func dmImage(t *testing.T, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata/dmremap", name+".img.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// writeImage writes an image to a device of the same size.
func writeImage(t *testing.T, path string, image []byte) {
	t.Helper()
	f := rig.Open(t, path)
	defer f.Close()
	if f.Size != int64(len(image)) {
		t.Fatalf("%s has %d bytes, the image %d", path, f.Size, len(image))
	}
	buf := rig.Aligned(len(image))
	copy(buf, image)
	if err := f.Write(buf, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
}

// TestImportDMRemap takes over the list alone, on a disk that is in use: nothing on it changes, and
// what dm-remap redirected is known to be bad. The set's head is where it lies now.
func TestImportDMRemap(t *testing.T) {
	vmtest.Long(t)
	vmtest.NeedUblk(t)
	rig.Guard(t, 4*time.Minute)
	const bs = 512
	disk, old := rig.NewDisk(t, rig.KindLoop, 16, bs), rig.NewDisk(t, rig.KindLoop, 2, bs)
	spare := vmtest.NewLoop(t, 16<<20, vmtest.LoopOptions{BlockSize: bs})
	s := rig.Create(t, disk.Path, spare, "--force", "--yes")
	s.CheckAtEnd(t)
	s.Start(t)
	f := rig.Open(t, s.Dev)
	f.Fill(t, 0, f.Size, 1)
	f.Close()
	was := contents(t, s.Dev, bs)
	args := []string{"import", s.Dev, old.Path, "--format", "dm-remap", "--json"}
	for _, name := range []string{"damaged", "contradiction", "outside", "other-main",
		"other-sectors", "other-version"} {
		writeImage(t, old.Path, dmImage(t, name))
		if r := rig.Want(t, rig.ExitUsage, args...); strings.Count(r.Stderr, "\n") != 1 {
			t.Errorf("%s: %q", name, r.Stderr)
		}
	}
	writeImage(t, old.Path, dmImage(t, "spare"))
	old.SetBad(t, []rig.Extent{rig.At(2*dmStride+4096, dmSector)})
	var got importReply
	rig.Parse(t, rig.Want(t, 0, args...), &got)
	// Where sectors 3, 9 and the last one were, the set has its metadata: those are on the spare
	// device. The others are in ten units.
	const listed, units = 17, 10
	if got != (importReply{Listed: listed, Marked: listed, Moved: listed}) {
		t.Errorf("%+v", got)
	}
	if now := contents(t, s.Dev, bs); len(now.bad) > 0 || !bytes.Equal(was.data, now.data) {
		t.Errorf("the contents changed; blocks %v cannot be read", now.bad)
	}
	if st := s.Status(t); st.Remaps != units || st.Pending != 0 {
		t.Errorf("%d remaps, %d pending", st.Remaps, st.Pending)
	}
}
