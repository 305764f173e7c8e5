package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The Go runtime keeps two stacks of its own for each thread within the heap: one for the scheduler
// and the garbage collector, one for signals. Most of their pages are touched only when a thread
// first needs them. That is too late if memory is short and swap is on the device that is served.
// Then a thread that the runtime pre-empts by a signal waits for a page for its signal frame, and
// the page waits for this server.

const (
	pagemapEntry   = 8       // bytes: Documentation/admin-guide/mm/pagemap.rst
	pagemapPresent = 1 << 63 // bits of an entry
	pagemapSwapped = 1 << 62
)

// fillHeap makes every page of the Go heap present, up to the highest page in use. Threads that are
// made later get their stacks from below that page, once reserveHeap has been called. Beyond it
// lies address space that the heap may never use.
func fillHeap() error {
	from, to, err := heapMapping()
	if err != nil {
		return err
	}
	end, err := highestPage(from, to)
	if err != nil || end == from {
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_MADVISE, from, end-from, unix.MADV_POPULATE_WRITE)
	if errno != 0 {
		return fmt.Errorf("madvise: %w", errno)
	}
	return nil
}

// heapObject is an object that is surely on the heap, whatever the compiler finds out about its
// use.
var heapObject *[64]byte

// heapMapping returns the addresses of the mapping that holds an object of the Go heap. An arena
// has 64 MiB, which is as large as the heap of a server gets.
func heapMapping() (from, to uintptr, err error) {
	heapObject = new([64]byte)
	at := uintptr(unsafe.Pointer(heapObject))
	err = mappings(func(m mapping) {
		if m.from <= at && at < m.to {
			from, to = m.from, m.to
		}
	})
	if err == nil && to == 0 {
		err = errors.New("/proc/self/maps does not have the heap")
	}
	return from, to, err
}

// highestPage returns the end of the last page of a mapping that was ever touched, or from if none
// was.
func highestPage(from, to uintptr) (uintptr, error) {
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return from, err
	}
	defer f.Close()
	page := uintptr(os.Getpagesize())
	entries := make([]byte, (to-from)/page*pagemapEntry)
	n, err := f.ReadAt(entries, int64(from/page*pagemapEntry))
	if err != nil && !errors.Is(err, io.EOF) {
		return from, err
	}
	for n -= n % pagemapEntry; n > 0; n -= pagemapEntry {
		entry := binary.NativeEndian.Uint64(entries[n-pagemapEntry:])
		if entry&(pagemapPresent|pagemapSwapped) != 0 {
			return from + uintptr(n/pagemapEntry)*page, nil
		}
	}
	return from, nil
}
