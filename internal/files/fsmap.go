package files

import (
	"errors"
	"structs"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ABI of GETFSMAP (include/uapi/linux/fsmap.h, Linux 4.12, ext4 since 4.16).

// fsmap is struct fsmap.
type fsmap struct {
	_        structs.HostLayout
	device   uint32
	flags    uint32
	physical uint64 // bytes
	owner    uint64
	offset   uint64
	length   uint64
	_        [3]uint64
}

// fsmapHead is struct fsmap_head with room for records.
type fsmapHead struct {
	_       structs.HostLayout
	iflags  uint32
	oflags  uint32
	count   uint32
	entries uint32
	_       [6]uint64
	keys    [2]fsmap
	recs    [fsmapRoom]fsmap
}

const (
	fsmapRoom     = 1024
	iocGetFSMap   = 0xc0c0583b // FS_IOC_GETFSMAP, _IOWR('X', 59, struct fsmap_head)
	fsmapPrealloc = 1 << 0     // FMR_OF_PREALLOC
	fsmapAttr     = 1 << 1     // FMR_OF_ATTR_FORK
	fsmapExtents  = 1 << 2     // FMR_OF_EXTENT_MAP
	fsmapSpecial  = 1 << 4     // FMR_OF_SPECIAL_OWNER
	fsmapLast     = 1 << 5     // FMR_OF_LAST
)

var (
	_ [64]byte  = [unsafe.Sizeof(fsmap{})]byte{}
	_ [192]byte = [unsafe.Offsetof(fsmapHead{}.recs)]byte{}
)

// The special owners: FMR_OWNER(type, code) is type<<32 | code.
const (
	ownFree    = 1
	ownUnknown = 2
)

// metadataNames name the special owners of ext4 (fs/ext4/fsmap.h) and of xfs
// (fs/xfs/libxfs/xfs_fs.h) by type and code. 'X' is common to both.
var metadataNames = map[uint64]string{
	3:           "metadata",
	'X'<<32 | 1: "superblock or group header",
	'X'<<32 | 2: "journal",
	'X'<<32 | 3: "free space and reverse map trees",
	'X'<<32 | 4: "inode tree",
	'X'<<32 | 5: "inode table",
	'X'<<32 | 6: "reference count tree",
	'X'<<32 | 7: "copy on write in progress",
	'X'<<32 | 8: "marked as bad",
	'f'<<32 | 1: "group descriptors",
	'f'<<32 | 2: "reserved group descriptors",
	'f'<<32 | 3: "block bitmap",
	'f'<<32 | 4: "inode bitmap",
}

// record is one answer of GETFSMAP.
type record struct {
	start, size int64 // bytes
	owner       uint64
	flags       uint32
}

// errNoMap: the file system has no GETFSMAP.
var errNoMap = errors.New("the file system has no GETFSMAP")

// encodeDev is new_encode_dev of include/linux/kdev_t.h.
func encodeDev(dev uint64) uint32 {
	major, minor := unix.Major(dev), unix.Minor(dev)
	return minor&0xff | major<<8 | minor&^0xff<<12
}

// fsmapOf calls each for the records that overlap a run of bytes of a mounted file system.
func fsmapOf(fd int, dev uint64, start, end int64, head *fsmapHead, each func(record)) error {
	for start < end {
		*head = fsmapHead{count: fsmapRoom}
		head.keys[0] = fsmap{device: encodeDev(dev), physical: uint64(start)}
		head.keys[1] = fsmap{device: encodeDev(dev), flags: ^uint32(0), physical: uint64(end - 1),
			owner: ^uint64(0), offset: ^uint64(0)}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), iocGetFSMap,
			uintptr(unsafe.Pointer(head)))
		switch errno {
		case 0:
		case unix.ENOTTY, unix.EOPNOTSUPP, unix.EINVAL, unix.ENOSYS:
			return errNoMap
		case unix.EINTR:
			continue
		default:
			return errno
		}
		last := false
		for _, r := range head.recs[:min(head.entries, fsmapRoom)] {
			each(record{int64(r.physical), int64(r.length), r.owner, r.flags})
			last = last || r.flags&fsmapLast != 0
			start = max(start, int64(r.physical+r.length))
		}
		if last || head.entries < fsmapRoom {
			return nil
		}
	}
	return nil
}
