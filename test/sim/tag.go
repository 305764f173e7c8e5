package sim

import (
	"encoding/binary"
	"fmt"
)

// Every sector says what it is in the 24 bytes at its start. Write-zeroes and discard leave all
// zeroes.
const (
	magicData = uint64(0x4154414453554c42) // user data: the exported sector and the write
	magicJunk = uint64(0x4b4e554a53554c42) // never written: the disk and its sector
	magicHole = uint64(0x454c4f4853554c42) // in a read's buffer: nothing was read here
)

func put(b []byte, magic, x, y uint64) {
	binary.LittleEndian.PutUint64(b, magic)
	binary.LittleEndian.PutUint64(b[8:], x)
	binary.LittleEndian.PutUint64(b[16:], y)
}

func putData(b []byte, sector, id uint64) { put(b, magicData, sector, id) }
func putJunk(b []byte, index uint8, sector int64) {
	put(b, magicJunk, uint64(sector),
		uint64(index))
}
func putHole(b []byte) { put(b, magicHole, 0, 0) }

// Values that are not writes of user data.
const (
	valueZero uint64 = iota
	valueInitial
	firstWrite
)

// identify returns the value that a sector holds; the error says that it
// cannot be a value of exported sector number sector, whose home is given.
func identify(b []byte, sector uint64, home place) (uint64, error) {
	magic, x, y := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]),
		binary.LittleEndian.Uint64(b[16:])
	switch {
	case magic == 0 && x == 0 && y == 0:
		return valueZero, nil
	case magic == magicData && x == sector:
		return y, nil
	case magic == magicData:
		return 0, fmt.Errorf("data of sector %d (write %d)", x, y)
	case magic == magicJunk && int64(x)*sectorSize == home.off && uint8(y) == home.disk:
		return valueInitial, nil
	case magic == magicJunk:
		return 0, fmt.Errorf("what lay at disk %d sector %d before", y, x)
	case magic == magicHole:
		return 0, fmt.Errorf("nothing: the buffer was not filled")
	}
	return 0, fmt.Errorf("metadata or garbage (%#x)", magic)
}

// place is a byte offset on a disk.
type place struct {
	disk uint8
	off  int64
}
