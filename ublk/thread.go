package ublk

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// threadOptions are what a queue sets of its thread. The thread is never given back to the runtime.
type threadOptions struct {
	cpus      unix.CPUSet // empty: any
	ioFlusher bool
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

// newWakeFile makes the eventfd behind Queue.Wakeup. It blocks: io_uring would answer EAGAIN at once to a read of one
// that does not.
func newWakeFile() (*os.File, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("ublk: eventfd: %w", err)
	}
	return os.NewFile(uintptr(fd), "eventfd"), nil
}
