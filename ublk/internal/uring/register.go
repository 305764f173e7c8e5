package uring

import (
	"fmt"
	"runtime"
	"unsafe"

	"github.com/pawelgaczynski/giouring"
	"golang.org/x/sys/unix"
)

// register calls io_uring_register on the ring's descriptor.
func (r *Ring) register(what string, op uint32, arg unsafe.Pointer, n uint32) error {
	_, errno := r.ring.Register(r.ring.RingFd(), op, arg, n)
	if errno != 0 {
		return fmt.Errorf("uring: register %s: %w", what, errno)
	}
	return nil
}

// RegisterFiles makes a table of n fixed files, all empty.
func (r *Ring) RegisterFiles(n int) error {
	// A plain registration of -1s; the sparse form came later and saves nothing for a small table.
	fds := make([]int32, n)
	for i := range fds {
		fds[i] = -1
	}
	err := r.register("files", giouring.RegisterFiles, unsafe.Pointer(unsafe.SliceData(fds)),
		uint32(n))
	runtime.KeepAlive(fds)
	return err
}

// SetFile puts a descriptor into the table of fixed files, or empties the slot if fd is -1.
// The ring keeps the file open by itself.
func (r *Ring) SetFile(index, fd int) error {
	fds := [1]int32{int32(fd)}
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&fds)
	update := giouring.FilesUpdate{Offset: uint32(index),
		Fds: uint64(uintptr(unsafe.Pointer(&fds)))}
	return r.register("file", giouring.RegisterFilesUpdate, unsafe.Pointer(&update), 1)
}

// RegisterSparseBuffers makes a table of n empty fixed buffers, for the kernel's driver to
// fill. Linux 5.19.
func (r *Ring) RegisterSparseBuffers(n int) error {
	reg := giouring.RsrcRegister{Nr: uint32(n), Flags: giouring.RsrcRegisterSparse}
	return r.register("buffers", giouring.RegisterBuffers2, unsafe.Pointer(&reg),
		uint32(unsafe.Sizeof(reg)))
}

// RegisterBuffers registers the first size bytes of every stride bytes of memory as fixed
// buffers 0, 1, 2, … The pages become present and stay so until the ring is closed; the
// memory must stay mapped as long.
func (r *Ring) RegisterBuffers(memory []byte, stride, size int) error {
	vecs := make([]unix.Iovec, len(memory)/stride)
	for i := range vecs {
		vecs[i].Base = &memory[i*stride]
		vecs[i].SetLen(size)
	}
	err := r.register("buffers", giouring.RegisterBuffers, unsafe.Pointer(unsafe.SliceData(vecs)),
		uint32(len(vecs)))
	runtime.KeepAlive(vecs)
	return err
}

// RegisterRing makes enter use a registered descriptor, which saves the kernel a look-up.
// It is valid on this thread only; Close gives it back.
func (r *Ring) RegisterRing() error {
	const anyIndex = ^uint32(0)
	update := giouring.RsrcUpdate{Offset: anyIndex, Data: uint64(r.ring.RingFd())}
	if err := r.register("ring", giouring.RegisterRingFDs, unsafe.Pointer(&update), 1); err != nil {
		return err
	}
	r.registered = int(update.Offset)
	r.enterFD = r.registered
	r.enterFlags = giouring.EnterRegisteredRing
	return nil
}

func (r *Ring) unregisterRing() error {
	update := giouring.RsrcUpdate{Offset: uint32(r.registered)}
	r.registered, r.enterFD, r.enterFlags = -1, r.ring.RingFd(), 0
	return r.register("ring", giouring.UnregisterRingFDs, unsafe.Pointer(&update), 1)
}
