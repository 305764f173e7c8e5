package files

import (
	"encoding/binary"
	"errors"
	"runtime"
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
	treeRoots      = 1          // BTRFS_ROOT_TREE_OBJECTID
	treeChunks     = 3          // BTRFS_CHUNK_TREE_OBJECTID
	treeDevices    = 4          // BTRFS_DEV_TREE_OBJECTID
	treeFiles      = 5          // BTRFS_FS_TREE_OBJECTID: the top subvolume
	firstSubvolume = 256        // BTRFS_FIRST_FREE_OBJECTID
	firstChunk     = 256        // BTRFS_FIRST_CHUNK_TREE_OBJECTID
	keyRootBackref = 144        // BTRFS_ROOT_BACKREF_KEY
	keyDevExtent   = 204        // BTRFS_DEV_EXTENT_KEY
	keyChunk       = 228        // BTRFS_CHUNK_ITEM_KEY
)

var (
	_ [112]byte  = [unsafe.Offsetof(btrfsSearch{}.buffer)]byte{}
	_ [4096]byte = [unsafe.Sizeof(btrfsLookup{})]byte{}
	_ [56]byte   = [unsafe.Sizeof(btrfsLogical{})]byte{}
	_ [16]byte   = [unsafe.Offsetof(btrfsInodes{}.values)]byte{}
)

// btrfsItem is an item of a tree. data is valid until the next search.
type btrfsItem struct {
	object, offset uint64
	data           []byte
}

// searchTree calls each for the items of one object and one kind with an offset between from and
// to, in their order.
func searchTree(fd int, tree, object uint64, kind uint32, from, to uint64, s *btrfsSearch,
	each func(btrfsItem)) error {
	for {
		*s = btrfsSearch{tree: tree, minObject: object, maxObject: object, minOffset: from,
			maxOffset: to, maxTransID: ^uint64(0), minType: kind, maxType: kind,
			items: ^uint32(0), size: uint64(len(s.buffer))}
		if err := ioctl(fd, iocTreeSearch, s); err != nil {
			return err
		}
		if s.items == 0 {
			return nil
		}
		b := s.buffer[:]
		for range s.items {
			// struct btrfs_ioctl_search_header: transid, objectid, offset, type, len
			if len(b) < 32 {
				return errors.New("btrfs gives an item that is cut off")
			}
			n := int(binary.NativeEndian.Uint32(b[28:]))
			if n > len(b)-32 {
				return errors.New("btrfs gives an item that is cut off")
			}
			item := btrfsItem{binary.NativeEndian.Uint64(b[8:]),
				binary.NativeEndian.Uint64(b[16:]), b[32 : 32+n]}
			each(item)
			from, b = item.offset, b[32+n:]
		}
		if from >= to {
			return nil
		}
		from++
	}
}

// btrfsUser is a file that uses a block.
type btrfsUser struct{ root, inode uint64 }

// treeBlockAt reports whether a block of a tree is at a logical address: one of size bytes.
func treeBlockAt(fd int, logical, size int64, s *btrfsSearch) (bool, error) {
	const (
		extents    = 2   // BTRFS_EXTENT_TREE_OBJECTID
		extentItem = 168 // BTRFS_EXTENT_ITEM_KEY
		metaItem   = 169 // BTRFS_METADATA_ITEM_KEY
		treeFlag   = 2   // BTRFS_EXTENT_FLAG_TREE_BLOCK
	)
	*s = btrfsSearch{tree: extents, minObject: uint64(max(0, logical-size+1)),
		maxObject: uint64(logical), maxOffset: ^uint64(0), maxTransID: ^uint64(0),
		minType: extentItem, maxType: metaItem, items: ^uint32(0), size: uint64(len(s.buffer))}
	if err := ioctl(fd, iocTreeSearch, s); err != nil {
		return false, err
	}
	b := s.buffer[:]
	for range s.items {
		n := int(binary.NativeEndian.Uint32(b[28:]))
		if len(b) < 32+n {
			return false, errors.New("btrfs gives an item that is cut off")
		}
		// The item of an extent is struct btrfs_extent_item: refs, generation, flags. Items of
		// other kinds lie between.
		kind := binary.NativeEndian.Uint32(b[24:])
		if kind == metaItem || kind == extentItem && n >= 24 &&
			binary.LittleEndian.Uint64(b[48:])&treeFlag != 0 {
			return true, nil
		}
		if b = b[32+n:]; len(b) < 32 {
			break
		}
	}
	return false, nil
}

// logicalUsers returns the files that use a block, without repetition. The error is ENOENT if it is
// free, and also if it is a block of a tree.
func logicalUsers(fd int, logical int64, in *btrfsInodes) (users []btrfsUser, err error) {
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(in)
	arg := btrfsLogical{logical: uint64(logical), size: uint64(unsafe.Sizeof(*in)),
		inodes: uint64(uintptr(unsafe.Pointer(in)))}
	in.count = 0
	if err := ioctl(fd, iocLogicalIno, &arg); err != nil {
		return nil, err
	}
	seen := map[btrfsUser]bool{}
	for i := 0; i+2 < int(min(in.count, 3*btrfsRoom)); i += 3 {
		u := btrfsUser{in.values[i+2], in.values[i]}
		if !seen[u] {
			seen[u] = true
			users = append(users, u)
		}
	}
	return users, nil
}

// lookupInode returns the path of an inode from the top of its tree.
func lookupInode(fd int, tree, inode uint64) (string, error) {
	l := btrfsLookup{tree: tree, object: inode}
	if err := ioctl(fd, iocInoLookup, &l); err != nil {
		return "", err
	}
	return unix.ByteSliceToString(l.name[:]), nil
}
