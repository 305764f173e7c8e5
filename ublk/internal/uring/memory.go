package uring

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Where Mmap puts memory: far from programs, their heaps, libraries and stacks, at an address that
// cannot be known beforehand.
const (
	lonelyFirst = 1 << 45
	lonelyPast  = 5 << 44
	lonelyAlign = 2 << 20 // also what huge pages need
	lonelyTries = 8
)

// Mmap gets memory outside of the Go heap, zeroed and page-aligned: what the kernel may
// write to at any time. Munmap gives it back.
//
// Its address is a random one that is most likely unmapped in every other process. This is because
// of a fault of ublk's batch commands in Linux 7.0 to 7.3: when a server is killed, a worker thread
// of the kernel may still write to its memory (ublk_batch_tw_cb in drivers/block/ublk_drv.c does
// not check whether it is cancelled), while the page tables of some other process are in use. At an
// unmapped address the write fails, and the kernel keeps the request for the next server.
func Mmap(size int) ([]byte, error) {
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_ANONYMOUS | unix.MAP_PRIVATE
	for range lonelyTries {
		at := (lonelyFirst + rand.Uint64N(lonelyPast-lonelyFirst)) / lonelyAlign * lonelyAlign
		addr, _, errno := unix.Syscall6(unix.SYS_MMAP, uintptr(at), uintptr(size), prot,
			flags|unix.MAP_FIXED_NOREPLACE, ^uintptr(0), 0)
		switch {
		case errno == unix.EEXIST:
			continue
		case errno != 0:
			// The address space may be smaller than that.
			addr, _, errno = unix.Syscall6(unix.SYS_MMAP, 0, uintptr(size), prot, flags,
				^uintptr(0), 0)
		}
		if errno != 0 {
			return nil, fmt.Errorf("uring: mmap of %d bytes: %w", size, errno)
		}
		return unsafe.Slice(pointer(addr), size), nil
	}
	return nil, fmt.Errorf("uring: mmap of %d bytes: %w", size, unix.EEXIST)
}

// pointer is an address outside of the Go heap, where nothing is moved.
func pointer(addr uintptr) *byte { return *(**byte)(unsafe.Pointer(&addr)) }

// addressOf is where b begins.
func addressOf(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

// Munmap gives back what Mmap got; nil is nothing.
func Munmap(memory ...[]byte) error {
	var errs []error
	for _, b := range memory {
		if b == nil {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MUNMAP, uintptr(addressOf(b)), uintptr(len(b)),
			0); errno != 0 {
			errs = append(errs, fmt.Errorf("uring: munmap: %w", errno))
		}
	}
	return errors.Join(errs...)
}
