package server

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// inProcess runs the test again in a separate process, because what the test changes stays changed.
// It reports whether this is that process.
func inProcess(t *testing.T) bool {
	t.Helper()
	const mark = "UBLK_REMAP_MEMORY_TEST"
	if os.Getenv(mark) != "" {
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), mark+"=1")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
	return false
}

func faults(t *testing.T) int64 {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return u.Minflt + u.Majflt
}

var garbage [64][]byte

// TestHeapIsPresent: once memory is reserved, garbage of any kind comes from pages that are present
// already.
func TestHeapIsPresent(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has memory of its own for every page")
	}
	if !inProcess(t) {
		return
	}
	rng := rand.New(rand.NewPCG(1, 2))
	waste := func(bytes int) {
		for n := 0; bytes > 0; n++ {
			if n%32 == 0 {
				time.Sleep(time.Millisecond) // some 50 MiB a second
			}
			size := 1 << (4 + rng.IntN(9))
			size += rng.IntN(size)
			garbage[rng.IntN(len(garbage))] = make([]byte, size)
			bytes -= size
		}
	}
	prepareMemory(zerolog.Nop(), 1)
	churnHeap()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := faults(t)
	waste(48 << 20)
	first := faults(t)
	waste(64 << 20)
	last := faults(t)
	runtime.ReadMemStats(&after)
	t.Logf("limit %d MiB; %d collections; faults: %d in the first 48 MiB of garbage, %d in the "+
		"next 64; released %d KiB",
		heapLimit.Load()>>20, after.NumGC-before.NumGC, first-began, last-first,
		after.HeapReleased>>10)
	if after.NumGC-before.NumGC < 3 {
		t.Errorf("only %d collections: too little garbage to tell", after.NumGC-before.NumGC)
	}
	// 112 MiB are 28,672 pages. Of a heap that is not reserved, 3,400 to 5,400 fault in each part.
	// The runtime's own pages are among those of the first part. In both parts the runtime gives
	// back a few pages of what exceeds 95 % of the limit, in the background: the more, the longer
	// the garbage takes. On a busy machine that was up to 1,500 pages in a part, on an idle one
	// 400.
	const most = 2500
	if first-began > most || last-first > most {
		t.Errorf("%d and %d faults", first-began, last-first)
	}
}

// The last round may pass the limit by any amount. No amount ends the server.
func TestChurnEndsAtAnyLimit(t *testing.T) {
	old := heapLimit.Load()
	defer heapLimit.Store(old)
	for limit := int64(0); limit < 16<<10; limit += 7 {
		heapLimit.Store(limit)
		churnHeap()
	}
}
