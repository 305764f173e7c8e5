package server

import (
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// TestSignalsNeedNoMemory: once memory is reserved, a signal finds the pages of its stack present,
// in every thread.
func TestSignalsNeedNoMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has memory of its own for every page")
	}
	if !inProcess(t) {
		return
	}
	const threads = 24
	var here, end sync.WaitGroup
	leave := make(chan struct{})
	here.Add(threads)
	for range threads {
		end.Go(func() {
			runtime.LockOSThread()
			here.Done()
			<-leave
		})
	}
	here.Wait()
	prepareMemory(zerolog.Nop(), 1)
	began := settledFaults(t)
	signalThreads(t)
	time.Sleep(100 * time.Millisecond)
	n := faults(t) - began
	t.Logf("%d faults for a signal to each of %d threads and more", n, threads)
	if n >= threads {
		t.Errorf("%d faults", n)
	}
	close(leave)
	end.Wait()
}

// settledFaults returns the page faults of this process once no more come by themselves. Threads
// that prepareMemory has started, and the runtime after its collections, go on for a moment.
func settledFaults(t *testing.T) int64 {
	t.Helper()
	last := faults(t)
	for range 50 {
		time.Sleep(50 * time.Millisecond)
		now := faults(t)
		if now == last {
			break
		}
		last = now
	}
	return last
}

// signalThreads interrupts each thread of this process as the runtime does.
func signalThreads(t *testing.T) {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Tgkill(os.Getpid(), tid, unix.SIGURG); err != nil {
			t.Error(err)
		}
	}
}
