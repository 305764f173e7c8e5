package remap

import (
	"math"
	"syscall"
	"testing"
	"time"
)

// TestClassify: each errno, in both ways to write it, has the class that docs/FAULTS.md says.
// Which of them a kernel can be made to give is in test/breaker.
func TestClassify(t *testing.T) {
	classes := map[syscall.Errno]Class{
		syscall.ENODATA: ClassMedium, syscall.EREMOTEIO: ClassMedium, syscall.EIO: ClassMedium,
		syscall.ENOMEM: ClassResource, syscall.EBUSY: ClassResource, syscall.EAGAIN: ClassResource,
		syscall.EINTR: ClassResource,
	}
	named := []syscall.Errno{
		syscall.EILSEQ, syscall.ENOLINK, syscall.ETIMEDOUT, syscall.ENODEV, syscall.ENXIO,
		syscall.ETIME, syscall.EBADE,
		syscall.EOPNOTSUPP, syscall.EINVAL, syscall.ENOSPC, syscall.EROFS, syscall.EPERM,
	}
	for _, e := range named {
		if got := Classify(int32(e)); got != ClassPath {
			t.Errorf("%v: class %d, want that of the path", e, got)
		}
	}
	for n := int32(1); n < 4096; n++ {
		want, listed := classes[syscall.Errno(n)]
		if !listed {
			want = ClassPath
		}
		if Classify(n) != want || Classify(-n) != want {
			t.Errorf("%v: class %d, as a result %d, want %d", syscall.Errno(n), Classify(n),
				Classify(-n), want)
		}
	}
	if Classify(math.MinInt32) != ClassPath {
		t.Error("what is no errno at all is to be the path's fault")
	}
}

func TestBucket(t *testing.T) {
	second := int64(time.Second)
	b := bucket{tokens: 10, burst: 10, perSecond: 4}
	steps := []struct {
		n   uint64
		now int64
		ok  bool
	}{
		{10, 0, true},
		{1, 0, false},
		{1, second/4 - 1, false},
		{1, second / 4, true},
		{2, second / 2, false},
		{4, second/4 + second, true},
		{1, second/4 + second, false},
		{11, 100 * second, false}, // never more than the burst
		{10, 100 * second, true},
		{1, 50 * second, false}, // a clock that goes back gives nothing
		{1, 100*second + second/4, true},
	}
	for i, s := range steps {
		if ok := b.take(s.n, s.now); ok != s.ok {
			t.Errorf("step %d: %d tokens at %d: %v, want %v", i, s.n, s.now, ok, s.ok)
		}
	}
}
