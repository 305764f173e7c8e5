package lists

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// dmEntry is an entry as dm-remap stores it.
type dmEntry struct {
	original, spare uint64 // sectors
	flags           uint16
}

// dmCopy makes a copy of dm-remap's metadata, with a checksum worked out bit by bit as the kernel's
// crc32_le does with seed 0.
func dmCopy(sequence, stamp uint64, entries ...dmEntry) []byte {
	le := binary.LittleEndian
	b := make([]byte, dmSize)
	le.PutUint32(b, 0x444d5234)
	le.PutUint32(b[4:], 4)
	le.PutUint64(b[8:], sequence)
	le.PutUint64(b[16:], stamp)
	le.PutUint32(b[32:], dmSize)
	le.PutUint64(b[120:], 1<<34) // sectors: 8 TiB
	le.PutUint64(b[128:], 1<<20)
	le.PutUint32(b[136:], 512)
	le.PutUint32(b[300:], dmMaxEntries)
	for i, e := range entries {
		p := b[312+40*i:]
		le.PutUint64(p, e.original)
		le.PutUint64(p[8:], e.spare)
		le.PutUint16(p[34:], e.flags)
	}
	le.PutUint32(b[24:], crcByBits(append(slices.Clone(b[:24]), b[28:]...)))
	return b
}

func crcByBits(b []byte) (crc uint32) {
	for _, c := range b {
		crc ^= uint32(c)
		for range 8 {
			low := crc & 1
			if crc >>= 1; low != 0 {
				crc ^= 0xedb88320
			}
		}
	}
	return crc
}

// dmDevice is a spare device with these copies; nil: damaged.
func dmDevice(copies ...[]byte) []byte {
	dev := bytes.Repeat([]byte{0xa5}, 1<<20)
	for i, c := range copies {
		copy(dev[i*131072:], c)
	}
	return dev
}

func TestDMRemap(t *testing.T) {
	old := dmCopy(7, 1, dmEntry{1, 2000, 2})
	cur := dmCopy(8, 1, dmEntry{100, 2000, 2}, dmEntry{1 << 33, 2001, 1}, dmEntry{200, 5, 2},
		dmEntry{100, 2002, 2}, dmEntry{300, 2003, 0}, dmEntry{400, 2004, 2}, dmEntry{500, 2004, 2})
	later := dmCopy(8, 2, dmEntry{9, 2000, 2})
	damaged := slices.Clone(later)
	damaged[80000]++
	newer := slices.Clone(later)
	newer[4] = 5 // another version
	for i, dev := range [][]byte{dmDevice(nil, old, cur), dmDevice(cur, cur, cur, cur, cur),
		dmDevice(old, damaged, newer, nil, cur)} {
		got, err := ReadDMRemap(bytes.NewReader(dev))
		want := &DMRemapTable{Sequence: 8, Main: 1 << 43, Spare: 1 << 29, Entries: []DMRemapEntry{
			{100 * 512, 2000 * 512, true}, {1 << 42, 2001 * 512, true}, {200 * 512, 5 * 512, false},
			{400 * 512, 2004 * 512, false}, {500 * 512, 2004 * 512, false}},
			Copies: []int{2, 5, 2}[i]}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, %v", got, err)
		}
	}
	l, err := Read(bytes.NewReader(dmDevice(old, cur, later)), "sdb", Options{Format: DMRemap,
		Size: 1 << 43})
	if err != nil || !slices.Equal(l.Ranges, []Range{{9 * 512, 10 * 512}}) {
		t.Error(l, err)
	}
	for _, dev := range [][]byte{nil, dmDevice(), dmDevice(damaged), dmDevice(newer),
		dmDevice(old)[:dmSize-1]} {
		_, err := Read(bytes.NewReader(dev), "sdb", Options{Format: DMRemap, Size: 1 << 43})
		wantError(t, fmt.Sprint(len(dev)), "sdb: ", err)
	}
	far := dmCopy(8, 1, dmEntry{1 << 62, 2000, 2})
	_, err = Read(bytes.NewReader(dmDevice(far)), "sdb", Options{Format: DMRemap, Size: 1 << 43})
	wantError(t, "far", "sdb: ", err)
	_, err = Read(strings.NewReader("x"), "sdb", Options{Format: DMRemap, Size: 1 << 43})
	wantError(t, "x", "sdb: ", err)
}

// FuzzDMRemap: the checksum is made right, so that what follows it is reached.
func FuzzDMRemap(f *testing.F) {
	f.Add(dmCopy(1, 2, dmEntry{100, 2000, 2}))
	f.Fuzz(func(t *testing.T, b []byte) {
		dev := dmDevice(b)
		le := binary.LittleEndian
		le.PutUint32(dev, 0x444d5234)
		le.PutUint32(dev[4:], 4)
		le.PutUint32(dev[24:], dmCRC(dmCRC(0, dev[:24]), dev[28:dmSize]))
		if _, err := ReadDMRemap(bytes.NewReader(dev)); err != nil {
			t.Fatal(err)
		}
		fuzzed(t, dev, DMRemap)
	})
}

// images are those that test/e2e/testdata/dmremap/make.py has made, which shares no code with this.
const images = "../../test/e2e/testdata/dmremap"

func image(t *testing.T, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join(images, name+".img.gz"))
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

// TestDMRemapImages: the sectors that dm-remap redirected, and those of them that can be trusted,
// are what the maker of the images says. Images that leave a doubt are refused.
func TestDMRemapImages(t *testing.T) {
	var shown map[string]*int64
	text, err := os.ReadFile(filepath.Join(images, "shown.json"))
	if err == nil {
		err = json.Unmarshal(text, &shown)
	}
	if err != nil {
		t.Fatal(err)
	}
	spare := image(t, "spare")
	got, err := ReadDMRemap(bytes.NewReader(spare))
	if err != nil || got.Copies != 4 || got.Main != 16<<20 || got.Spare != 2<<20 ||
		len(got.Entries) != len(shown) {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, e := range got.Entries {
		place, ok := shown[fmt.Sprint(e.Original/512)]
		trusted := e.Trusted && e.Spare < got.Spare
		if !ok || (place != nil) != trusted || place != nil && *place != e.Spare/512 {
			t.Errorf("%+v, want %v", e, place)
		}
	}
	l, err := Read(bytes.NewReader(spare), "sdc", Options{Format: DMRemap, Size: 16 << 20,
		Whole: true})
	if err != nil || l.End != 16<<20 {
		t.Errorf("%+v, %v", l, err)
	}
	for name, why := range map[string]string{"damaged": "no valid copy", "contradiction": "differ",
		"other-sectors": "4096 bytes", "other-version": "no valid copy", "outside": "past the end",
		"other-main": "16781312 bytes"} {
		_, err := Read(bytes.NewReader(image(t, name)), "sdc", Options{Format: DMRemap,
			Size: 16 << 20, Whole: true})
		wantError(t, name, "sdc: ", err)
		if err != nil && !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
