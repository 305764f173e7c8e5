package ublk

import (
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// threadOptions are what a queue sets of its thread and its memory. The thread is never
// given back to the runtime.
type threadOptions struct {
	cpus      unix.CPUSet // empty: any
	ioFlusher bool
	hugePages bool
}

func (o *threadOptions) apply() error {
	if o.cpus.Count() > 0 {
		if err := unix.SchedSetaffinity(0, &o.cpus); err != nil {
			return fmt.Errorf("sched_setaffinity: %w", err)
		}
	}
	if o.ioFlusher {
		if err := unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("PR_SET_IO_FLUSHER: %w", err)
		}
	}
	return nil
}

// onOwnThread runs f on a thread that ends when f returns. To be called in a goroutine of its own.
func onOwnThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		// The goroutine ends locked, and the runtime ends the thread.
		f()
		return
	}
	// The process's first thread cannot end. While this goroutine keeps it, another one
	// gets another thread.
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		f()
	}()
	<-done
	runtime.UnlockOSThread()
}

// awaitThreadExit waits until the kernel knows no such thread of this process, for a few
// seconds at most.
func awaitThreadExit(tid int) {
	for deadline := time.Now().Add(
		5 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Microsecond) {
		if err := unix.Tgkill(unix.Getpid(), tid, 0); err == unix.ESRCH {
			return
		}
	}
}

// newWakeFile makes the eventfd behind Queue.Wakeup. It blocks: io_uring would answer
// EAGAIN at once to a read of one that does not.
func newWakeFile() (*os.File, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("ublk: eventfd: %w", err)
	}
	return os.NewFile(uintptr(fd), "eventfd"), nil
}
