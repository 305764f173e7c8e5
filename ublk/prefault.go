package ublk

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Prefault makes memory of a running device present: at most most bytes of the copy buffers, the
// same share of each tag's buffer from its start, and the memory that handlers got by NewZeroes,
// for reading. That of NewMemory is there already.
// Prefault returns how many bytes are present and how many there are. It keeps the contents, and
// may be called while requests are served. With zero copy there are no copy buffers. Linux 5.14.
func (d *Device) Prefault(most int64) (present, all int64, err error) {
	tags := int64(d.info.Queues) * int64(d.info.Depth)
	part := int64(0)
	if !d.info.ZeroCopy() {
		all = tags * int64(d.info.MaxIO)
		part = min(int64(d.info.MaxIO), most/tags/int64(pageSize)*int64(pageSize))
	}
	for i := range d.info.Queues {
		for tag := 0; part > 0 && tag < d.info.Depth; tag++ {
			n, err := d.populate(i, unix.MADV_POPULATE_WRITE,
				func(q *Queue) []byte { return q.bufs[tag*q.maxIO:][:part] })
			if present += n; err != nil || n == 0 {
				return present, all, err
			}
		}
		for m := 0; ; m++ {
			n, err := d.populate(i, unix.MADV_POPULATE_READ, func(q *Queue) []byte {
				if m >= len(q.memories) {
					return nil
				}
				return q.memories[m].bytes
			})
			present, all = present+n, all+n
			if err != nil {
				return present, all, err
			}
			if n == 0 {
				break
			}
		}
	}
	return present, all, nil
}

// populate makes a part of a queue's memory present and returns its length, or 0 if the queue has
// ended. It holds the lock, so that the memory stays mapped.
func (d *Device) populate(queue, how int, of func(q *Queue) []byte) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if queue >= len(d.queues) {
		return 0, nil
	}
	b := of(d.queues[queue])
	if len(b) == 0 {
		return 0, nil
	}
	for {
		_, _, errno := unix.Syscall(unix.SYS_MADVISE, uintptr(unsafe.Pointer(unsafe.SliceData(b))),
			uintptr(len(b)), uintptr(how))
		switch errno {
		case 0:
			return int64(len(b)), nil
		case unix.EINTR, unix.EAGAIN:
		default:
			return 0, fmt.Errorf("ublk: device %d: madvise %d: %w", d.info.ID, how, errno)
		}
	}
}
