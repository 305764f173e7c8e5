package metadata

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
)

// TestPartition compares the end of the first 512 bytes with what sfdisk 2.38 writes for such a
// partition.
func TestPartition(t *testing.T) {
	for _, tc := range []struct {
		size       int64
		set, block uint32 // block: of the device, if it is not the set's
		want       string
	}{
		{64 << 20, 512, 0, "00000200da281f0801000000feff0100"},
		{64<<20 + 511, 512, 0, "00000200da281f0801000000feff0100"},
		{64 << 20, 4096, 0, "00000200da05030101000000fe3f0000"},
		{64 << 20, 4096, 512, "00000200da281f0801000000feff0100"},
		// The partition ends at the end of cylinder 1022, or in cylinder 1023.
		{(1023*255*63 + 1) * 512, 512, 0, "00000200dafefffe010000003ec5fa00"},
		{(1023*255*63 + 2) * 512, 512, 0, "00000200da00c1ff010000003fc5fa00"},
		{1 << 40, 512, 0, "00000200dafeffff01000000feffff7f"},
		// Blocks behind 2 TiB have no number in the table.
		{2 << 40, 512, 0, "00000200dafeffff01000000feffffff"},
		{2<<40 + 512, 512, 0, "00000200dafeffff01000000ffffffff"},
		{3 << 40, 512, 0, "00000200dafeffff01000000ffffffff"},
		{3 << 40, 4096, 0, "00000200dafeffff01000000feffff2f"},
		{20 << 40, 4096, 0, "00000200dafeffff01000000ffffffff"},
	} {
		id := uuid.UUID{1, 2, 3, 4, 5}
		sb := Superblock{Compat: compatSignature | compatPartition, BlockSize: tc.set,
			Devices: []DeviceInfo{{UUID: id, Size: tc.size, Role: RoleBacking,
				BlockSize: tc.block}}}
		b := make([]byte, PageSize)
		sb.encode(b, 0)
		if got := hex.EncodeToString(b[446:462]); got != tc.want {
			t.Errorf("%d bytes in blocks of %d, %d: %s, want %s", tc.size, tc.set, tc.block, got,
				tc.want)
		}
		if rest := hex.EncodeToString(b[440:446]) + hex.EncodeToString(b[462:512]); rest !=
			"010203040000"+strings.Repeat("00", 48)+"55aa" || !showsPartition(b) {
			t.Errorf("%d bytes: around the partition there is %s", tc.size, rest)
		}
	}
}

// superblockOfDevices is a superblock of a set with that many devices.
func superblockOfDevices(t *testing.T, devices int) *Superblock {
	plan, err := Plan(pairParamsNamed())
	if err != nil {
		t.Fatal(err)
	}
	sb := plan.Superblock()
	for i := len(sb.Devices); i < devices; i++ {
		sb.Devices = append(sb.Devices, DeviceInfo{UUID: uuid.New(), Size: 8 << 20,
			Role: RoleSpare})
	}
	sb.Devices = sb.Devices[:devices]
	return &sb
}

// TestPartitionOfManyDevices: however many devices a set has, its superblocks read back, and
// have a partition unless the device table is in the way.
func TestPartitionOfManyDevices(t *testing.T) {
	for devices := 2; devices <= MaxDevices; devices++ {
		for _, far := range []bool{false, true} {
			sb := superblockOfDevices(t, devices)
			sb.Regions = sb.Regions[:3]
			for len(sb.Regions) < MaxRegions { // the region table is full, too
				sb.Regions = append(sb.Regions, Region{Kind: RegionSpare, Start: 1 << 40,
					Length: 1 << 40, Generation: 1 << 60, First: 1 << 31,
					StaleFrom: Position{1 << 63, 1 << 63}})
			}
			for i := range sb.Devices {
				sb.Devices[i].BlockSize = 512
			}
			if far {
				sb.Incompat |= incompatFarDevices
			}
			for i := range devices {
				b := make([]byte, PageSize)
				sb.DeviceIndex = uint8(i)
				sb.encode(b, uint8(i))
				back, err := decodeSuperblock(b)
				if err != nil || !slices.Equal(back.Devices, sb.Devices) ||
					!slices.Equal(back.Regions, sb.Regions) || int(back.DeviceIndex) != i {
					t.Fatalf("device %d of %d, far %v: %v, %+v", i, devices, far, err, back)
				}
				if want := devices <= nearDevices || far; showsPartition(b) != want ||
					bytes.Equal(b[510:512], []byte{0x55, 0xaa}) != want {
					t.Errorf("device %d of %d, far %v: partition %v", i, devices, far,
						showsPartition(b))
				}
			}
		}
	}
}

// TestFarDevicesAreRefused: a version that does not know where the device table is refuses the
// set, by the rule for bits that it does not know.
func TestFarDevicesAreRefused(t *testing.T) {
	const before = incompatTransition | incompatTail // what versions knew before
	if incompatFarDevices&before != 0 || incompatFarDevices&knownIncompat == 0 {
		t.Errorf("incompat bit %#x", incompatFarDevices)
	}
}

// asOlder changes the superblocks on a disk to what an older version writes: one that knows the
// partition table (signature), or one that does not know even that. It keeps the bits that this
// version does not know.
func asOlder(d *memDisk, signature bool) {
	for at, page := range d.pages {
		if sealed(page[:], magicSuperblock) {
			b := *page
			clear(b[440:444])
			clear(b[446:510])
			if !signature {
				clear(b[510:512])
			}
			seal(b[:])
			d.pages[at] = &b
		}
	}
}

// TestPartitionComesBack: a set that an older version made, or has written, gets its partition with
// the next start, and check says what other tools see. What an older version writes is valid.
func TestPartitionComesBack(t *testing.T) {
	for _, tc := range sbWorlds {
		for _, older := range []string{"made", "written, with a table", "written"} {
			t.Run(tc.name+", "+older, func(t *testing.T) {
				w := sbWorld(t, 93, tc.p, tc.two || older == "made")
				w.start()
				if older != "made" {
					w.settle()
					for _, d := range w.disks {
						asOlder(d, older == "written, with a table")
					}
				}
				r, err := Check(devices(w.disks))
				if err != nil || r.Partition || r.Worst() != SeverityInfo ||
					!strings.Contains(r.String(), "other tools see no partition") {
					t.Errorf("before: %v\n%s", err, r.String())
				}
				w.power()
				w.settle()
				if r, err = Check(devices(w.disks)); err != nil || !r.Partition ||
					r.Worst() != "" || !strings.Contains(r.String(), "one partition of type da") {
					t.Errorf("after a start: %v\n%s", err, r.String())
				}
				for i, d := range w.disks {
					for _, off := range w.plan.sb.copies(uint8(i)) {
						if page := d.pages[off/PageSize]; page == nil || !showsPartition(page[:]) {
							t.Errorf("no partition at %d of device %d", off, i)
						}
					}
				}
			})
		}
	}
}

// TestNoPartitionInTransition: a page that may have to be recognized byte by byte is written as by
// versions that do not know the partition.
func TestNoPartitionInTransition(t *testing.T) {
	sb := superblockOfDevices(t, 1)
	sb.Incompat |= incompatTransition
	for _, sb.Transition = range []Transition{TransitionCopied, TransitionConverting,
		TransitionReverting} {
		b := make([]byte, PageSize)
		sb.encode(b, 0)
		if showsPartition(b) || b[510] != 0x55 || binary.LittleEndian.Uint32(b[440:]) != 0 {
			t.Errorf("%s: % x", sb.Transition, b[440:512])
		}
	}
}

// TestDumpSumIsTheOldOne: the sum of a dump is that over a superblock without the partition.
func TestDumpSumIsTheOldOne(t *testing.T) {
	sb := superblockOfDevices(t, 2)
	with := newDumpSum(sb).end(link{})
	old := sb.clone()
	old.Session = 0
	b := make([]byte, PageSize)
	old.encode(b, 0)
	clear(b[440:444])
	clear(b[446:510])
	seal(b)
	s := newDumpSum(sb)
	s.digest.Reset()
	s.digest.Write(b)
	if without := s.end(link{}); with != without {
		t.Errorf("%016x, want %016x", with, without)
	}
}
