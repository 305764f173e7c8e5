package server

import (
	"errors"
	"os"
	"runtime"
	"syscall"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// harden prepares the process to run below a file system. Such a process must continue with I/O
// when memory is short, because that I/O may be what frees memory. If a step is refused because a
// capability is missing, harden logs that and continues without it.
func harden(log zerolog.Logger, hugePages bool) {
	// Where huge pages are the default, touching one byte takes two MiB. Only the start of the
	// buffers' memory should be present.
	if !hugePages {
		if err := unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0); err != nil {
			log.Warn().Err(err).Msg("cannot do without huge pages")
		}
	}
	// This marks every thread; threads that are made later inherit the mark. A thread that waits
	// for a page of a file in /run cannot be asked. So it was done while there was only one thread,
	// if possible.
	if on, err := unix.PrctlRetInt(unix.PR_GET_IO_FLUSHER, 0, 0, 0, 0); err == nil && on == 1 {
		log.Trace().Msg("the threads are I/O flushers")
	} else if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_IO_FLUSHER, 1,
		0, 0, 0, 0); errno != 0 && !errors.Is(errno, syscall.ENOTSUP) {
		log.Warn().Err(errno).Msg("cannot mark the threads as I/O flushers")
	}
	// Pages stay once they are present. They are not made present all at once, because queue
	// buffers are large and mostly unused.
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		log.Warn().Err(err).Msg("cannot lock memory")
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
		log.Warn().Err(err).Msg("cannot keep the out-of-memory killer away")
	}
	if err := os.Chdir("/"); err != nil {
		log.Warn().Err(err).Msg("cannot leave the working directory")
	}
}

// spareProcessors is for goroutines besides those of the queues: the keeper, and one that is idle.
// Only if one is idle does the runtime leave a queue's thread its processor while that thread waits
// in the kernel.
const spareProcessors = 2

// reserveProcessors lets enough goroutines run at the same time, whatever the number of CPUs. An
// unused processor costs nothing.
func reserveProcessors(queues int) {
	if n := queues + spareProcessors; runtime.GOMAXPROCS(0) < n {
		runtime.GOMAXPROCS(n)
	}
}

// setIOFlusher marks the calling thread. Its failure was logged by harden.
func setIOFlusher() { _ = unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0) }

// canFlush reports whether PR_SET_IO_FLUSHER is allowed. It needs CAP_SYS_RESOURCE. A queue that
// asks for it without that capability would not start.
func canFlush() bool { return unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0) == nil }
