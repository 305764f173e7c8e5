package uring

import (
	"unsafe"

	"github.com/pawelgaczynski/giouring"
	"golang.org/x/sys/unix"
)

// The encoders below expect a zeroed entry, as Ring.SQE gives it. Files are indices of
// fixed files unless said otherwise.

// Read reads into memory at addr.
func Read(s *SQE, file int, addr uint64, n uint32, off uint64) {
	rw(s, giouring.OpRead, file, addr, n, off, 0)
}

// Write writes from memory at addr; flags are RWF_*.
func Write(s *SQE, file int, addr uint64, n uint32, off uint64, flags uint32) {
	rw(s, giouring.OpWrite, file, addr, n, off, flags)
}

// ReadFixed reads into the registered buffer; addr is an address in it or, for a buffer of
// the kernel, an offset.
func ReadFixed(s *SQE, file int, buffer uint16, addr uint64, n uint32, off uint64) {
	rw(s, giouring.OpReadFixed, file, addr, n, off, 0)
	s.BufIG = buffer
}

// WriteFixed is Write from a registered buffer.
func WriteFixed(s *SQE, file int, buffer uint16, addr uint64, n uint32, off uint64, flags uint32) {
	rw(s, giouring.OpWriteFixed, file, addr, n, off, flags)
	s.BufIG = buffer
}

func rw(s *SQE, op uint8, file int, addr uint64, n uint32, off uint64, flags uint32) {
	s.OpCode = op
	s.Flags = giouring.SqeFixedFile
	s.Fd = int32(file)
	s.Off = off
	s.Addr = addr
	s.Len = n
	s.OpcodeFlags = flags
}

// ReadFD reads from a plain descriptor at its own position.
func ReadFD(s *SQE, fd int, addr uint64, n uint32) {
	s.OpCode = giouring.OpRead
	s.Fd = int32(fd)
	s.Off = ^uint64(0)
	s.Addr = addr
	s.Len = n
}

// Fdatasync flushes a file or the cache of a block device.
func Fdatasync(s *SQE, file int) {
	s.OpCode = giouring.OpFsync
	s.Flags = giouring.SqeFixedFile
	s.Fd = int32(file)
	s.OpcodeFlags = giouring.FsyncDatasync
}

// Fallocate is fallocate(2).
func Fallocate(s *SQE, file int, mode uint32, off, n uint64) {
	s.OpCode = giouring.OpFallocate
	s.Flags = giouring.SqeFixedFile
	s.Fd = int32(file)
	s.Off = off
	s.Addr = n
	s.Len = mode
}

// blockDiscard is BLOCK_URING_CMD_DISCARD, _IO(0x12, 0), of include/uapi/linux/blkdev.h.
const blockDiscard = 0x12 << 8

// BlockDiscard discards a range of a block device. Linux 6.12.
//
// It is handed to a thread of the kernel's that may wait. A discard that may not wait fails with
// EOPNOTSUPP on every driver that takes bios itself and does not promise never to wait (dm-thin,
// zram, some MD levels), and nothing retries it: submit_bio_noacct in block/blk-core.c,
// blk_cmd_complete in block/ioctl.c.
func BlockDiscard(s *SQE, file int, off, n uint64) {
	s.OpCode = giouring.OpUringCmd
	s.Flags = giouring.SqeFixedFile | giouring.SqeAsync
	s.Fd = int32(file)
	s.Off = blockDiscard
	s.Addr = off
	s.Addr3 = n
}

// Command is IORING_OP_URING_CMD. op goes to the low half of the entry's off field. The
// payload, from byte 48 on, is for the caller to fill: 16 bytes of a plain entry, 80 of a
// wide one.
func Command(s *SQE, file int, fixed bool, op uint32) (payload unsafe.Pointer) {
	s.OpCode = giouring.OpUringCmd
	if fixed {
		s.Flags = giouring.SqeFixedFile
	}
	s.Fd = int32(file)
	s.Off = uint64(op)
	return unsafe.Pointer(&s.Addr3)
}

var _ [48]byte = [unsafe.Offsetof(SQE{}.Addr3)]byte{}

// Cancel cancels the operation that has this user data.
func Cancel(s *SQE, userData uint64) {
	s.OpCode = giouring.OpAsyncCancel
	s.Fd = -1
	s.Addr = userData
}

// Nop does nothing, and completes.
func Nop(s *SQE) { s.OpCode = giouring.OpNop }

// DataSync makes a write durable before it completes: RWF_DSYNC of include/uapi/linux/fs.h.
const DataSync = unix.RWF_DSYNC
