package main

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"slices"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
)

// dmMove is a sector that dm-remap has put elsewhere.
type dmMove struct{ original, spare uint64 }

// dmRemapped makes of a disk what dm-remap leaves: sectors live on a spare device, which it
// returns, and what the disk holds in their place is nothing of worth.
func dmRemapped(t *testing.T, disk string, moves []dmMove) string {
	t.Helper()
	st, err := os.Stat(disk)
	must(t, err)
	const size = 84288 // of one copy of its metadata
	le := binary.LittleEndian
	b := make([]byte, size)
	le.PutUint32(b, 0x444d5234)
	le.PutUint32(b[4:], 4)
	le.PutUint64(b[8:], 3)
	le.PutUint64(b[120:], uint64(st.Size()/512))
	le.PutUint32(b[136:], 512)
	main, err := os.OpenFile(disk, os.O_RDWR, 0)
	must(t, err)
	defer main.Close()
	path := diskFile(t, 4<<20)
	spare, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer spare.Close()
	sector := make([]byte, 512)
	for i, m := range moves {
		p := b[312+40*i:]
		le.PutUint64(p, m.original)
		le.PutUint64(p[8:], m.spare)
		le.PutUint16(p[34:], 2)
		_, err := main.ReadAt(sector, int64(m.original)*512)
		must(t, err)
		_, err = spare.WriteAt(sector, int64(m.spare)*512)
		must(t, err)
		_, err = main.WriteAt(bytes.Repeat([]byte{0xee}, 512), int64(m.original)*512)
		must(t, err)
	}
	sum := crc32.Update(0xffffffff, crc32.IEEETable, append(slices.Clone(b[:24]), b[28:]...))
	le.PutUint32(b[24:], ^sum)
	_, err = spare.WriteAt(b, 131072)
	must(t, err)
	return path
}

// TestFromDMRemap takes a disk over from dm-remap, with its data: in the first and the last MiBs
// and between, and also where only a part of a block was put elsewhere.
func TestFromDMRemap(t *testing.T) {
	useRuntimeDir(t)
	disk := ext4Disk(t, 64<<20)
	before := content(t, disk, 64<<20)
	moves := []dmMove{{2, 2000}, {3, 2001}, {9, 2002}, {65536, 2003}, {65537, 2004}, {65538, 2005},
		{65543, 2006}, {70000, 2007}, {131071, 2008}, {131064, 2009}}
	for i := range uint64(8) {
		moves = append(moves, dmMove{80000 + i, 3000 - i}) // a whole block of 4096
	}
	old := dmRemapped(t, disk, moves)
	spare := diskFile(t, 24<<20)
	damaged := content(t, disk, 64<<20)
	mustRun(t, exit.Usage, "create", disk, "--from-dm-remap", old)
	mustRun(t, exit.Refused, "create", disk, "--in-place", "--yes", "--spare-device", old,
		"--from-dm-remap", old)
	mustRun(t, exit.Usage, "create", disk, "--in-place", "--yes", "--spare-device", spare,
		"--from-dm-remap", diskFile(t, 4<<20)) // nothing of dm-remap
	mustRun(t, exit.Refused, "create", spare, "--in-place", "--yes", "--from-dm-remap", old)
	if !bytes.Equal(damaged, content(t, disk, 64<<20)) {
		t.Fatal("a refusal changed something")
	}
	kept := content(t, old, 4<<20)
	var c created
	parseJSON(t, mustRun(t, 0, "create", disk, "--in-place", "--yes", "--force", "--spare-device",
		spare, "--from-dm-remap", old, "--json").out, &c)
	blocks := map[uint64]bool{}
	for _, m := range moves {
		blocks[m.original*512/uint64(c.BlockSize)] = true
	}
	if c.Taken != uint64(len(blocks)) || c.Untaken != 0 || c.Lost != 0 {
		t.Errorf("%+v, want %d blocks taken over", c, len(blocks))
	}
	if !bytes.Equal(before, exported(t, disk, spare)) {
		t.Error("the device shows other contents than dm-remap did")
	}
	if !bytes.Equal(kept, content(t, old, 4<<20)) {
		t.Error("dm-remap's spare device was changed")
	}
	mustRun(t, 0, "metadata", "check", disk, "--spare-device", spare)
	mustRun(t, 0, "release", disk, "--yes", "--spare-device", spare)
	if !bytes.Equal(before, content(t, disk, 64<<20)) {
		t.Error("release gives other contents back")
	}
}

// TestFromDMRemapWithoutCopy: what dm-remap has written over with its own metadata is not taken for
// data, and neither is what the disk holds in its place.
func TestFromDMRemapWithoutCopy(t *testing.T) {
	useRuntimeDir(t)
	disk := ext4Disk(t, 64<<20)
	old := dmRemapped(t, disk, []dmMove{{65536, 3}, {70000, 2000}, {80000, 1279}, {90000, 2000}})
	spare := diskFile(t, 24<<20)
	var c created
	parseJSON(t, mustRun(t, 0, "create", disk, "--in-place", "--yes", "--force", "--spare-device",
		spare, "--from-dm-remap", old, "--json").out, &c)
	if c.Taken != 0 || c.Untaken != 4 {
		t.Errorf("%+v", c)
	}
	var rows []control.Remap
	parseJSON(t, mustRun(t, 0, "export", disk, "--format", "json", "--spare-device", spare).out,
		&rows)
	per := uint64(c.BlockSize / 512)
	for i, sector := range []uint64{65536, 70000, 80000, 90000} {
		if i >= len(rows) || rows[i].Block != sector/per || rows[i].State != "lost" {
			t.Fatalf("%+v", rows)
		}
	}
}
