package bench

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime returns the processor time of this thread.
func cpuTime() time.Duration { return clock(unix.CLOCK_THREAD_CPUTIME_ID) }

// processTime returns the processor time of all threads.
func processTime() time.Duration { return clock(unix.CLOCK_PROCESS_CPUTIME_ID) }

func clock(id int32) time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(id, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// perCPU keeps the benchmark on its thread. It returns a function that reports the processor time
// of an operation at the end. On a machine that others use too that says more than the time by the
// clock: it contains only their share of the caches.
func perCPU(b *testing.B) (report func()) {
	runtime.LockOSThread()
	began := cpuTime()
	return func() {
		b.ReportMetric(float64((cpuTime()-began).Nanoseconds())/float64(b.N), "cpu-ns/op")
		runtime.UnlockOSThread()
	}
}
