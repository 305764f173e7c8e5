package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"unsafe"
)

// rawDevice reads and writes a block device without the page cache, so that each answer is the
// device's own.
type rawDevice struct {
	f   *os.File
	buf []byte // page-aligned
}

func openRaw(path string) (*rawDevice, error) {
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_DIRECT|syscall.O_EXCL, 0)
	if err != nil {
		return nil, err
	}
	buf, err := syscall.Mmap(-1, 0, 1<<20, syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		_ = f.Close()
		return nil, os.NewSyscallError("mmap", err)
	}
	return &rawDevice{f, buf}, nil
}

func (r *rawDevice) close() error {
	_ = syscall.Munmap(r.buf)
	return r.f.Close()
}

// read returns n bytes at an offset. They stay valid until the next call.
func (r *rawDevice) read(offset int64, n int) ([]byte, error) {
	_, err := r.f.ReadAt(r.buf[:n], offset)
	return r.buf[:n], err
}

// fill writes n bytes of a value at an offset.
func (r *rawDevice) fill(offset int64, n int, value byte) error {
	for i := range r.buf[:n] {
		r.buf[i] = value
	}
	_, err := r.f.WriteAt(r.buf[:n], offset)
	return err
}

// maxProbes bounds how many sectors are tried one by one.
const maxProbes = 2000

// sample returns at most n of the sectors, evenly spread.
func sample(sectors []int64, n int) []int64 {
	if len(sectors) <= n {
		return sectors
	}
	out := make([]int64, 0, n)
	for i := range n {
		out = append(out, sectors[i*len(sectors)/n])
	}
	return out
}

// parseRuns reads "FIRST COUNT" lines and returns the single sectors.
func parseRuns(text string) ([]int64, error) {
	var out []int64
	for line := range strings.Lines(text) {
		var first, count int64
		if n, err := fmt.Sscan(line, &first, &count); n != 2 || first < 0 || count < 1 {
			return nil, fmt.Errorf("badloop list: %q: %v", line, err)
		}
		for i := range count {
			out = append(out, first+i)
		}
	}
	return out, nil
}

// extent is a run of bytes on the exported device.
type extent struct{ start, length int64 }

// The kernel's FIEMAP request: include/uapi/linux/fiemap.h, linux/fs.h.
const (
	fsIocFiemap       = 0xC020660B // _IOWR('f', 11, struct fiemap), without the array
	fiemapFlagSync    = 0x1
	fiemapExtentLast  = 0x1
	fiemapNotOnDevice = 0x2 | 0x4 | 0x8 | 0x200 // unknown, delalloc, encoded, inline
	fiemapBatch       = 64
)

type fiemapExtent struct {
	logical, physical, length uint64
	_                         [2]uint64
	flags                     uint32
	_                         [3]uint32
}

type fiemap struct {
	start, length                uint64
	flags, mapped, room, padding uint32
	extents                      [fiemapBatch]fiemapExtent
}

var (
	_ [56]byte = [unsafe.Sizeof(fiemapExtent{})]byte{}
	_ [32]byte = [unsafe.Offsetof(fiemap{}.extents)]byte{}
)

// extentsOf asks the file system where a file is on its device.
func extentsOf(path string) ([]extent, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var out []extent
	m := &fiemap{flags: fiemapFlagSync, room: fiemapBatch, length: ^uint64(0)}
	for {
		m.length = ^uint64(0) - m.start
		if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), fsIocFiemap,
			uintptr(unsafe.Pointer(m))); e != 0 {
			return nil, fmt.Errorf("FIEMAP of %s: %w", path, e)
		}
		for _, x := range m.extents[:m.mapped] {
			if x.flags&fiemapNotOnDevice != 0 {
				return nil, fmt.Errorf("FIEMAP of %s: an extent without a place (flags %#x)", path,
					x.flags)
			}
			out = append(out, extent{int64(x.physical), int64(x.length)})
			m.start = x.logical + x.length
			if x.flags&fiemapExtentLast != 0 {
				return out, nil
			}
		}
		if m.mapped == 0 {
			return out, nil
		}
	}
}
