package files

import (
	"cmp"
	"encoding/binary"
	"errors"
	"runtime"
	"slices"
	"structs"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ABI of btrfs (include/uapi/linux/btrfs.h and btrfs_tree.h).

// btrfsSearch is struct btrfs_ioctl_search_args_v2 with its buffer.
type btrfsSearch struct {
	_                          structs.HostLayout
	tree                       uint64
	minObject, maxObject       uint64
	minOffset, maxOffset       uint64
	minTransaction, maxTransID uint64
	minType, maxType           uint32
	items                      uint32
	_                          uint32
	_                          [4]uint64
	size                       uint64
	buffer                     [64 << 10]byte
}

// btrfsLookup is struct btrfs_ioctl_ino_lookup_args.
type btrfsLookup struct {
	_      structs.HostLayout
	tree   uint64
	object uint64
	name   [4080]byte
}

// btrfsLogical is struct btrfs_ioctl_logical_ino_args.
type btrfsLogical struct {
	_       structs.HostLayout
	logical uint64
	size    uint64
	_       [3]uint64
	flags   uint64
	inodes  uint64 // address of a btrfsInodes
}

// btrfsInfo is struct btrfs_ioctl_fs_info_args.
type btrfsInfo struct {
	_          structs.HostLayout
	_          [48]byte
	flags      uint64
	generation uint64
	_          [960]byte
}

// btrfsInodes is struct btrfs_data_container: inode, offset and root of each file.
type btrfsInodes struct {
	_       structs.HostLayout
	left    uint32
	missing uint32
	count   uint32 // of numbers
	missed  uint32
	values  [3 * btrfsRoom]uint64
}

const (
	btrfsRoom      = 128        // files; the kernel copies all of it for each block
	iocTreeSearch  = 0xc0709411 // BTRFS_IOC_TREE_SEARCH_V2
	iocInoLookup   = 0xd0009412 // BTRFS_IOC_INO_LOOKUP
	iocLogicalIno  = 0xc038943b // BTRFS_IOC_LOGICAL_INO_V2
	iocFSInfo      = 0x8400941f // BTRFS_IOC_FS_INFO
	iocStartSync   = 0x80089418 // BTRFS_IOC_START_SYNC
	iocWaitSync    = 0x40089416 // BTRFS_IOC_WAIT_SYNC
	infoGeneration = 1 << 1     // BTRFS_FS_INFO_FLAG_GENERATION
	treeRoots      = 1          // BTRFS_ROOT_TREE_OBJECTID
	treeExtents    = 2          // BTRFS_EXTENT_TREE_OBJECTID
	treeChunks     = 3          // BTRFS_CHUNK_TREE_OBJECTID
	treeDevices    = 4          // BTRFS_DEV_TREE_OBJECTID
	treeFiles      = 5          // BTRFS_FS_TREE_OBJECTID: the top subvolume
	firstSubvolume = 256        // BTRFS_FIRST_FREE_OBJECTID
	firstChunk     = 256        // BTRFS_FIRST_CHUNK_TREE_OBJECTID
	keyFileExtent  = 108        // BTRFS_EXTENT_DATA_KEY
	keyRootBackref = 144        // BTRFS_ROOT_BACKREF_KEY
	keyExtent      = 168        // BTRFS_EXTENT_ITEM_KEY
	keyTreeBlock   = 169        // BTRFS_METADATA_ITEM_KEY
	keyDevExtent   = 204        // BTRFS_DEV_EXTENT_KEY
	keyChunk       = 228        // BTRFS_CHUNK_ITEM_KEY

	logicalIgnoreOffset = 1 << 0 // BTRFS_LOGICAL_INO_ARGS_IGNORE_OFFSET
)

var (
	_ [112]byte  = [unsafe.Offsetof(btrfsSearch{}.buffer)]byte{}
	_ [4096]byte = [unsafe.Sizeof(btrfsLookup{})]byte{}
	_ [56]byte   = [unsafe.Sizeof(btrfsLogical{})]byte{}
	_ [1024]byte = [unsafe.Sizeof(btrfsInfo{})]byte{}
	_ [16]byte   = [unsafe.Offsetof(btrfsInodes{}.values)]byte{}
)

// btrfsItem is an item of a tree. data is valid until the next search.
type btrfsItem struct {
	object, offset uint64
	kind           uint32
	data           []byte
}

var errBtrfsItem = errors.New("btrfs gives an item that is cut off")

// once makes one search for the keys that are set in s, calls each for the items in their order,
// and reports how many there were. More can follow.
func (s *btrfsSearch) once(fd int, each func(btrfsItem)) (n int, err error) {
	s.maxTransID, s.size = ^uint64(0), uint64(len(s.buffer))
	if err := ioctl(fd, iocTreeSearch, s); err != nil {
		return 0, err
	}
	b := s.buffer[:]
	for range s.items {
		// struct btrfs_ioctl_search_header: transid, objectid, offset, type, len
		if len(b) < 32 {
			return n, errBtrfsItem
		}
		size := int(binary.NativeEndian.Uint32(b[28:]))
		if size > len(b)-32 {
			return n, errBtrfsItem
		}
		each(btrfsItem{binary.NativeEndian.Uint64(b[8:]), binary.NativeEndian.Uint64(b[16:]),
			binary.NativeEndian.Uint32(b[24:]), b[32 : 32+size]})
		n, b = n+1, b[32+size:]
	}
	return n, nil
}

// searchTree calls each for the items of one object and one kind with an offset between from and
// to, in their order.
func searchTree(fd int, tree, object uint64, kind uint32, from, to uint64, s *btrfsSearch,
	each func(btrfsItem)) error {
	for {
		*s = btrfsSearch{tree: tree, minObject: object, maxObject: object, minOffset: from,
			maxOffset: to, minType: kind, maxType: kind, items: ^uint32(0)}
		n, err := s.once(fd, func(i btrfsItem) {
			from = i.offset
			each(i)
		})
		if n == 0 || err != nil || from >= to {
			return err
		}
		from++
	}
}

// btrfsUser is a file that uses a block.
type btrfsUser struct{ root, inode uint64 }

// btrfsUse is a use of an extent: offset is where in the file it begins, or where the block is.
type btrfsUse struct {
	btrfsUser
	offset uint64
}

// logicalUses calls each for the uses of the block at a logical address, or of the extent that it
// is in. It reports how many uses there was no room for. The error is ENOENT if the block is free,
// and also if it is one of a tree.
func logicalUses(fd int, logical int64, extent bool, in *btrfsInodes, each func(btrfsUse)) (
	missed uint32, err error) {
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(in)
	arg := btrfsLogical{logical: uint64(logical), size: uint64(unsafe.Sizeof(*in)),
		inodes: uint64(uintptr(unsafe.Pointer(in)))}
	if extent {
		arg.flags = logicalIgnoreOffset
	}
	in.count, in.missed = 0, 0
	if err := ioctl(fd, iocLogicalIno, &arg); err != nil {
		return 0, err
	}
	for i := 0; i+2 < int(min(in.count, 3*btrfsRoom)); i += 3 {
		each(btrfsUse{btrfsUser{in.values[i+2], in.values[i]}, in.values[i+1]})
	}
	return in.missed, nil
}

// logicalUsers returns the files that use a block, in order and without repetition. The error is
// that of logicalUses.
func logicalUsers(fd int, logical int64, in *btrfsInodes) (users []btrfsUser, err error) {
	_, err = logicalUses(fd, logical, false, in, func(u btrfsUse) {
		users = append(users, u.btrfsUser)
	})
	return inOrder(users), err
}

// inOrder orders files and takes out repetitions.
func inOrder(users []btrfsUser) []btrfsUser {
	slices.SortFunc(users, func(a, b btrfsUser) int {
		return cmp.Or(cmp.Compare(a.root, b.root), cmp.Compare(a.inode, b.inode))
	})
	return slices.Compact(users)
}

// lookupInode returns the path of an inode from the top of its tree.
func lookupInode(fd int, tree, inode uint64) (string, error) {
	l := btrfsLookup{tree: tree, object: inode}
	if err := ioctl(fd, iocInoLookup, &l); err != nil {
		return "", err
	}
	return unix.ByteSliceToString(l.name[:]), nil
}

// committed ends the transaction under way, if there is one, and returns the number of the last one
// that has ended. All trees stay as they are until a later one begins.
func committed(fd int) (transaction uint64, err error) {
	if err := ioctl(fd, iocStartSync, &transaction); err != nil {
		return 0, err
	}
	return transaction, ioctl(fd, iocWaitSync, &transaction)
}

var errGeneration = errors.New("btrfs does not tell its generation")

// generation returns the number of the last transaction that has begun.
func generation(fd int) (uint64, error) {
	info := btrfsInfo{flags: infoGeneration}
	if err := ioctl(fd, iocFSInfo, &info); err != nil {
		return 0, err
	}
	if info.flags&infoGeneration == 0 {
		return 0, errGeneration
	}
	return info.generation, nil
}
