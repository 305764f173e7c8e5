package server

import (
	"bufio"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// Memory that the I/O path may need is present before the first request, because the I/O may be
// what memory is waiting for. The queue threads allocate nothing. What remains is the program's
// text, the heap that heals and the control socket use, threads, and the buffers that requests are
// copied through. See docs/ARCHITECTURE.md, "Memory".

const (
	// heapReserve is how much heap there is beyond 1.5 times the live heap, in bytes. The garbage
	// of some hundred heals fits into it.
	heapReserve = 6 << 20
	// heapFilled is how much of the limit is made present, in percent. The runtime collects garbage
	// before the heap gets there. From 95 % of the limit on it gives pages back to the system.
	heapFilled = 95
	// heapWatched is how many collections are observed before the limit grows.
	heapWatched = 8
	// spareThreads is how many threads of the runtime there are besides one per CPU, for goroutines
	// that are in a system call.
	spareThreads = 4
)

// lockText makes the program's own pages present and keeps them. Reading one from a disk may mean
// reading it from the device that is served.
func lockText() error {
	var errs []error
	err := mappings(func(m mapping) {
		if !strings.HasPrefix(m.path, "/") || !strings.HasPrefix(m.perms, "r") {
			return
		}
		// Unlike mlockall with MCL_ONFAULT this reads the pages.
		if _, _, errno := unix.Syscall(unix.SYS_MLOCK, m.from, m.to-m.from, 0); errno != 0 {
			errs = append(errs, fmt.Errorf("mlock of %s: %w", m.path, errno))
		}
	})
	return errors.Join(append(errs, err)...)
}

// mapping is a line of /proc/self/maps, proc_pid_maps(5).
type mapping struct {
	from, to    uintptr
	perms, path string // path: empty for memory that is of no file
}

// mappings calls f for each mapping of this process. The error also has the lines that cannot be
// read; they are left out.
func mappings(f func(mapping)) error {
	file, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer file.Close()
	var errs []error
	for lines := bufio.NewScanner(file); lines.Scan(); {
		// address perms offset dev inode path
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		low, high, _ := strings.Cut(fields[0], "-")
		from, err1 := strconv.ParseUint(low, 16, 64)
		to, err2 := strconv.ParseUint(high, 16, 64)
		if err := errors.Join(err1, err2); err != nil {
			errs = append(errs, err)
			continue
		}
		m := mapping{from: uintptr(from), to: uintptr(to), perms: fields[1]}
		if len(fields) > 5 {
			m.path = fields[5]
		}
		f(m)
	}
	return errors.Join(errs...)
}

// heapLimit is the last limit of the Go heap.
var heapLimit atomic.Int64

// reserveHeap makes this much heap present: the live heap, half as much again, and heapReserve. It
// has the runtime stay within that limit. So the runtime collects garbage when the heap is used up,
// and not by the clock or by a ratio. After a collection by the clock or by a ratio it would give
// back pages that heals need again. If more becomes live later, the limit grows.
func reserveHeap() {
	runtime.GC()
	limit := live()*3/2 + heapReserve + overhead()
	if old := heapLimit.Load(); limit <= old+old/4 {
		return
	}
	heapLimit.Store(limit)
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(limit)
	// The ballast is made piece by piece, so that pages that are present already are used. At the
	// end the pieces are garbage, and their pages stay.
	const piece, pieces = 64 << 10, 16
	ballast := make([][]byte, 0, limit/piece+pieces)
	for used() < limit*heapFilled/100 && len(ballast) < int(limit/piece) {
		for range pieces { // asking costs as much as some pieces
			b := make([]byte, piece)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			ballast = append(ballast, b)
		}
	}
	// A first collection allocates what collecting needs, and finds the heap as large as it is to
	// stay.
	runtime.GC()
	runtime.KeepAlive(ballast)
}

// churnHeap fills the heap once more with small garbage, until that has been collected. Then what
// the runtime keeps about small objects is present too.
func churnHeap() {
	kept := make([][]byte, 16)
	n := 0
	for left := 2 * heapLimit.Load(); left > 0; {
		// If garbage is made faster than it is collected, the heap outgrows its limit.
		if n++; n%4 == 0 {
			time.Sleep(time.Millisecond)
		}
		// left becomes zero or less within a round, so it cannot serve as an index.
		for i, size := 0, 16; size <= 8<<10; i, size = i+1, size*2 {
			kept[(n+i)%len(kept)] = make([]byte, size)
			left -= int64(size)
		}
	}
	runtime.KeepAlive(kept)
}

// watchHeap lets the limit grow with the live heap. The result of one collection is no measure,
// because what is allocated while it runs counts as live. The least of several results is one.
func watchHeap(seen int, least int64) {
	type sentinel struct{ _ [16]byte }
	s := new(sentinel)
	runtime.SetFinalizer(s, func(*sentinel) {
		// The sentinel was collected, so a collection has ended.
		least = min(least, live())
		if seen++; seen < heapWatched {
			watchHeap(seen, least)
			return
		}
		if least*3/2+heapReserve/2 > heapLimit.Load() {
			limit := least*2 + heapReserve
			heapLimit.Store(limit)
			debug.SetMemoryLimit(limit)
		}
		watchHeap(0, math.MaxInt64)
	})
}

// used is the memory that the runtime has in use, as its limit counts it. Memory that the runtime
// has but does not use may never have been touched.
func used() int64 {
	return heapSamples("/memory/classes/total:bytes", "/memory/classes/heap/released:bytes",
		"/memory/classes/heap/free:bytes")
}

// overhead is the memory of the runtime that is not heap.
func overhead() int64 {
	return heapSamples("/memory/classes/total:bytes", "/memory/classes/heap/released:bytes",
		"/memory/classes/heap/free:bytes",
		"/memory/classes/heap/objects:bytes", "/memory/classes/heap/unused:bytes")
}

// live is the heap that the last collection found in use.
func live() int64 { return heapSamples("/gc/heap/live:bytes") }

// heapSamples returns the first of these metrics of the runtime minus all the others.
func heapSamples(names ...string) int64 {
	samples := make([]metrics.Sample, len(names))
	for i, name := range names {
		samples[i].Name = name
	}
	metrics.Read(samples)
	var n int64
	for i, s := range samples {
		switch {
		case s.Value.Kind() != metrics.KindUint64: // a runtime without it
		case i == 0:
			n = int64(s.Value.Uint64())
		default:
			n -= int64(s.Value.Uint64())
		}
	}
	return n
}

// startThreads makes threads that the runtime keeps, because making one later takes memory.
func startThreads(n int) {
	var here, gone sync.WaitGroup
	leave := make(chan struct{})
	here.Add(n)
	for range n {
		gone.Go(func() {
			// A locked goroutine that waits keeps its thread.
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			here.Done()
			<-leave
		})
	}
	here.Wait()
	close(leave)
	gone.Wait()
}

// settling counts the servers of this process that still do what is not needed for the first
// requests.
var settling sync.WaitGroup

// prepareMemory does what can be done before the device, which has this many queues, is live.
func prepareMemory(log zerolog.Logger, queues int) {
	if err := lockText(); err != nil {
		log.Warn().Err(err).Msg("cannot keep the program in memory")
	}
	reserveProcessors(queues)
	startThreads(runtime.GOMAXPROCS(0) + spareThreads)
	reserveHeap()
	if err := fillHeap(); err != nil {
		log.Warn().Err(err).Msg("cannot make all of the heap present")
	}
	watchHeapOnce.Do(func() { watchHeap(0, math.MaxInt64) })
}

var watchHeapOnce sync.Once
