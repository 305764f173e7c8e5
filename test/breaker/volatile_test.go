package breaker

import (
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"ublkremap/test/rig"
	"ublkremap/ublk"
	"ublkremap/ublk/ublktest"
)

// volatile is a disk with a volatile cache and without FUA, as most SATA, virtio and NBD
// disks are: a ublk device that this test serves. A flush that is made to fail drops what
// was written since the last one that went well.
type volatile struct {
	path string
	ram  *ublktest.RAM
	bad  atomic.Pointer[rig.Extent] // writes to it fail

	mu sync.Mutex
	// by page: what was there when it was last flushed, of pages written since
	media   map[int64][]byte
	countTo int  // which flush from now on is to fail; 0: none
	never   bool // no flush goes well
	failed  int
}

const page = 4096

func newVolatile(t testing.TB) *volatile {
	t.Helper()
	ram, err := ublktest.NewRAM(diskMiB << 20)
	if err != nil {
		t.Fatal(err)
	}
	v := &volatile{ram: ram, media: map[int64][]byte{}}
	ram.Fail = v.request
	params := ram.Params()
	params.FUA, params.Discard = false, nil
	v.path = serve(t, ram, params)
	return v
}

// request sees each request before it is carried out.
func (v *volatile) request(r ublk.Request) int32 {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch r.Op {
	case ublk.OpWrite:
		if bad := v.bad.Load(); bad != nil && bad.Overlaps(rig.At(r.Offset(), r.Length())) {
			return -int32(syscall.EIO)
		}
		for off := r.Offset() / page * page; off < r.Offset()+r.Length(); off += page {
			if v.media[off] == nil {
				old := make([]byte, page)
				if _, err := v.ram.File().ReadAt(old, off); err != nil {
					return -int32(syscall.ENOLINK)
				}
				v.media[off] = old
			}
		}
	case ublk.OpFlush:
		if v.never {
			return v.drop()
		}
		if v.countTo > 0 {
			if v.countTo--; v.countTo == 0 {
				return v.drop()
			}
		}
		clear(v.media)
	}
	return 0
}

// drop fails a flush.
func (v *volatile) drop() int32 {
	for off, old := range v.media {
		if _, err := v.ram.File().WriteAt(old, off); err != nil {
			return -int32(syscall.ENOLINK)
		}
	}
	clear(v.media)
	v.failed++
	return -int32(syscall.EIO)
}

// failFlush makes the nth flush from now on fail; 0: none.
func (v *volatile) failFlush(nth int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.countTo = nth
}

// failFlushes makes all flushes fail, or none.
func (v *volatile) failFlushes(on bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.never = on
}

// failures is how many flushes have failed.
func (v *volatile) failures() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.failed
}
