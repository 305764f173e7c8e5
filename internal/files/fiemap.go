package files

import (
	"structs"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ABI of FIEMAP (include/uapi/linux/fiemap.h).

// fiemapExtent is struct fiemap_extent.
type fiemapExtent struct {
	_        structs.HostLayout
	logical  uint64 // bytes
	physical uint64
	length   uint64
	_        [2]uint64
	flags    uint32
	_        [3]uint32
}

// fiemap is struct fiemap with room for extents.
type fiemap struct {
	_       structs.HostLayout
	start   uint64
	length  uint64
	flags   uint32
	mapped  uint32
	count   uint32
	_       uint32
	extents [fiemapRoom]fiemapExtent
}

const (
	fiemapRoom = 256
	iocFiemap  = 0xc020660b // FS_IOC_FIEMAP, _IOWR('f', 11, struct fiemap)

	extentLast      = 0x1    // FIEMAP_EXTENT_LAST
	extentUnknown   = 0x2    // FIEMAP_EXTENT_UNKNOWN: not allocated yet
	extentDelalloc  = 0x4    // FIEMAP_EXTENT_DELALLOC
	extentInline    = 0x200  // FIEMAP_EXTENT_DATA_INLINE
	extentUnwritten = 0x800  // FIEMAP_EXTENT_UNWRITTEN
	extentShared    = 0x2000 // FIEMAP_EXTENT_SHARED
)

var (
	_ [56]byte = [unsafe.Sizeof(fiemapExtent{})]byte{}
	_ [32]byte = [unsafe.Offsetof(fiemap{}.extents)]byte{}
)

// extentsOf calls each for the extents of an open file that have a place on the device.
func extentsOf(fd int, m *fiemap, each func(e *fiemapExtent)) error {
	start := uint64(0)
	for {
		*m = fiemap{start: start, length: ^uint64(0) - start, count: fiemapRoom}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), iocFiemap,
			uintptr(unsafe.Pointer(m)))
		switch {
		case errno == unix.EINTR:
			continue
		case errno != 0:
			return errno
		case m.mapped == 0:
			return nil
		}
		for i := range min(m.mapped, fiemapRoom) {
			e := &m.extents[i]
			if e.flags&(extentUnknown|extentDelalloc|extentInline) == 0 {
				each(e)
			}
			if e.flags&extentLast != 0 || e.logical+e.length <= start {
				return nil
			}
			start = e.logical + e.length
		}
	}
}
