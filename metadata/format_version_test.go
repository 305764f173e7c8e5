package metadata

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
)

// goldenVersion is the format version in the name of a golden image: v4-alone-512.
func goldenVersion(t *testing.T, name string) (v uint32) {
	if _, err := fmt.Sscanf(name, "v%d-", &v); err != nil {
		t.Fatal(name, err)
	}
	return v
}

// TestEveryVersionIsRead: every version in the table has a golden image, every golden image
// is of a version in the table, and all that it holds is decoded as that version.
func TestEveryVersionIsRead(t *testing.T) {
	images := map[uint32]int{}
	for _, g := range golden {
		v := goldenVersion(t, g.name)
		images[v]++
		if versions[v] == nil {
			t.Errorf("%s is of version %d, which is not read", g.name, v)
			continue
		}
		disks := readGolden(t, g.name)
		img, err := Load(devices(disks))
		if err != nil {
			t.Fatal(g.name, err)
		}
		if _, err := img.Table(); err != nil {
			t.Fatal(g.name, err)
		}
		for i, d := range disks {
			seen := map[uint64]int{}
			for _, page := range d.pages {
				for _, magic := range []uint64{magicSuperblock, magicRecord, magicHeader,
					magicPage} {
					if !sealed(page[:], magic) {
						continue
					}
					if got := le.Uint32(page[versionAt:]); got != v {
						t.Errorf("%s: device %d has a structure of version %d", g.name, i, got)
					}
					if !decodes(page[:], magic, &img.sb.UUID) {
						t.Errorf("%s: device %d has a structure that does not decode", g.name, i)
					}
					seen[magic]++
				}
			}
			if len(seen) != 4 {
				t.Errorf("%s: device %d has %d kinds of structures of 4", g.name, i, len(seen))
			}
		}
	}
	for v := range versions {
		if images[v] == 0 {
			t.Errorf("version %d has no golden image", v)
		}
	}
	files, err := filepath.Glob(filepath.Join("testdata", "v*.img.gz"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name, _, _ := strings.Cut(filepath.Base(file), ".")
		listed := false
		for _, g := range golden {
			listed = listed || g.name == name
		}
		for _, g := range goldenEvents {
			listed = listed || g.name == name
		}
		if !listed {
			t.Errorf("no test reads %s", file)
		}
	}
}

// decodes reports whether a structure of a set is decoded.
func decodes(b []byte, magic uint64, set *uuid.UUID) bool {
	ok := false
	switch magic {
	case magicSuperblock:
		_, err := decodeSuperblock(b)
		ok = err == nil
	case magicRecord:
		_, ok = decodeRecord(b, set)
	case magicHeader:
		_, ok = decodeHeader(b, set)
	case magicPage:
		_, _, ok = decodePage(b, set, getID(b[pageIDAt:]), le.Uint32(b[pageIndexAt:]))
	}
	return ok
}

// TestUnknownVersionIsRefused: a superblock of another version says which one it is; any other
// structure of that version counts as absent.
func TestUnknownVersionIsRefused(t *testing.T) {
	for _, v := range []uint32{0, Version - 1, Version + 1, 1 << 31} {
		disks := readGolden(t, golden[0].name)
		sb, err := Probe(disks[0])
		if err != nil {
			t.Fatal(err)
		}
		for at, page := range disks[0].pages {
			for _, magic := range []uint64{magicSuperblock, magicRecord, magicHeader, magicPage} {
				if !sealed(page[:], magic) {
					continue
				}
				other := *page
				le.PutUint32(other[versionAt:], v)
				seal(other[:])
				if decodes(other[:], magic, &sb.UUID) {
					t.Errorf("a structure of version %d is decoded", v)
				}
				if magic == magicSuperblock {
					disks[0].pages[at] = &other
				}
			}
		}
		want := fmt.Sprintf("superblock of version %d, this program reads [4]", v)
		refused := func(what string, err error) {
			if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), want) {
				t.Errorf("version %d: %s: %v", v, what, err)
			}
		}
		_, err = Probe(disks[0])
		refused("probe", err)
		_, err = Load(devices(disks))
		refused("load", err)
		_, err = Check(devices(disks))
		refused("check", err)
		_, err = PlanRepair(devices(disks), nil)
		refused("repair", err)
		_, _, err = Interrupted(disks[0], nil)
		refused("interrupted", err)
	}
}

// TestOffsets compares the offsets with those that FORMAT.md draws.
func TestOffsets(t *testing.T) {
	text, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	section := func(title string) []byte {
		_, rest, ok := bytes.Cut(text, []byte("\n## "+title))
		if !ok {
			t.Fatal("FORMAT.md has no section ", title)
		}
		s, _, _ := bytes.Cut(rest, []byte("\n## "))
		return bytes.Join(bytes.Fields(s), []byte(" "))
	}
	for _, s := range []struct {
		title string
		named map[int]string
	}{
		{"Every structure", map[int]string{magicAt: "u64 magic", versionAt: "u32 version",
			wordAt: "u32", checksumOffset: "u64 xxhash64", setAt: "16 UUID of the set"}},
		{"Superblock", map[int]string{
			sbSizeAt: "u32 4096", sbDeviceUUIDAt: "16 UUID", sbGenerationAt: "u64 generation",
			sbEpochAt: "u64 epoch", sbPrevEpochAt: "u64 epoch before", sbSessionAt: "u64 session",
			sbCreatedAt: "u32 created", sbStartedAt: "u32 last start", sbCompatAt: "u32 compat",
			sbROCompatAt: "u32 ro_compat", sbIncompatAt: "u32 incompat",
			sbDeviceIndexAt: "u32 index", sbBlockSizeAt: "u32 block size",
			sbAtomSizeAt: "u32 atom size", sbHeadBytesAt: "u64 head bytes",
			sbExportedAt: "u64 exported bytes", sbSlotBytesAt: "u64 slot bytes",
			sbLogBytesAt: "u64 log bytes", sbDevicesAt: "u32 devices", sbRegionsAt: "u32 regions",
			sbNameAt: "64 name", sbTransitionAt: "u32 transition",
			sbMarkAt:   "u32 place of the mark",
			sbStraysAt: "u64 reverting", sbTailStartAt: "u64 tail",
			deviceTableAt: "device table, 16 × 48", regionTableAt: "region table, 40 × 64",
			ptDiskIDAt: "u32 identifier", ptEntriesAt: "16 the first entry",
			ptSignatureAt: "2 55 AA",
		}},
		{"Superblock", map[int]string{deviceSizeAt: "u64 size", deviceRoleAt: "u32 role",
			deviceBlockAt: "u32 logical block"}},
		{"Superblock", map[int]string{ptFirstCHSAt: "3 CHS of the first", ptTypeAt: "u8 da",
			ptLastCHSAt: "3 CHS of the last", ptStartAt: "u32 start", ptLengthAt: "u32 length"}},
		{"Superblock", map[int]string{regionKindAt: "u16 kind", regionDeviceAt: "u16 device",
			regionFlagsAt: "u32 flags", regionStartAt: "u64 start", regionLengthAt: "u64 length",
			regionGenerationAt: "u64 generation of the region", regionFirstAt: "u32 First",
			regionStaleFromAt: "u64 + 48 u64 stale from"}},
		{"Log record", map[int]string{recordKindAt: "u32 kind", recordPositionAt: "u64 epoch",
			recordPrevAt: "u64 epoch", recordPrevAt + positionSize: "u64 its checksum",
			recordSBGenerationAt: "u64 superblock generation", recordSessionAt: "u64 session",
			recordCountAt: "u32 entries", recordHeader: "entries, 24 bytes each"}},
		{"Checkpoint header", map[int]string{headerPagesAt: "u32 pages",
			headerIDAt: "u64 epoch of the start", headerSessionAt: "u64 session",
			headerCoversAt:  "u64 + 64 u64 + 72 u64 covers",
			headerEntriesAt: "u64 entries in all pages", headerDigestAt: "u64 xxhash64"}},
		{"Checkpoint header", map[int]string{pageIndexAt: "u32 index", pageIDAt: "u64 epoch",
			pageCountAt: "u32 entries", pageHeader: "entries, 24 bytes each"}},
		{"Entry", map[int]string{entryUnitAt: "u64 unit", entrySpareAt: "u32 spare",
			entryCountAt: "u32 count", entryTimeAt: "u32 time", entryMaskAt: "u8 mask",
			entryStateAt: "u8 state", entryCauseAt: "u8 cause", entryFlagsAt: "u8 flags"}},
	} {
		have := section(s.title)
		for at, name := range s.named {
			if want := fmt.Sprintf(" %d %s", at, name); !bytes.Contains(have, []byte(want)) {
				t.Errorf("%s: FORMAT.md does not draw%s", s.title, want)
			}
		}
	}
}
