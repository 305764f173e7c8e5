package files

import (
	"os"
)

// Extent is a run of bytes of a file that has a place on the block device of its file system.
type Extent struct {
	Offset int64 // in the file
	Place  int64 // on the device
	Length int64
	// Written: it holds the file's data, as it is. Otherwise it is allocated and was never written,
	// or its data is stored in another form (compressed, encrypted, packed).
	Written bool
}

// Forms of data that are not the file's own bytes.
const extentForms = 0x8 | // FIEMAP_EXTENT_ENCODED
	0x80 | // FIEMAP_EXTENT_DATA_ENCRYPTED
	0x100 | // FIEMAP_EXTENT_NOT_ALIGNED
	0x400 // FIEMAP_EXTENT_DATA_TAIL

// Extents returns the extents of an open file, in order, by FIEMAP. On btrfs the places are not
// those of a device. What the file system has not written yet has no place: sync the file before.
func Extents(f *os.File) (list []Extent, err error) {
	var m fiemap
	err = extentsOf(int(f.Fd()), &m, func(e *fiemapExtent) {
		list = append(list, Extent{Offset: int64(e.logical), Place: int64(e.physical),
			Length: int64(e.length), Written: e.flags&(extentUnwritten|extentForms) == 0})
	})
	return list, err
}
