package server

import (
	"errors"
	"os"
	"runtime"
	"syscall"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// harden makes the process fit to stand below a file system: it must get on
// with I/O when memory is short, for that I/O may be what frees memory. What
// is refused, for want of a capability, is logged and done without.
func harden(log zerolog.Logger, hugePages bool) {
	// Where they are the default, a byte takes two MiB. The start of the buffers' memory is
	// all that is to be there.
	if !hugePages {
		if err := unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0); err != nil {
			log.Warn().Err(err).Msg("cannot do without huge pages")
		}
	}
	// Every thread, and those made later inherit it. A thread that waits for a page of a
	// file in /run cannot be asked, so it was done when there was only one, if it could be.
	if on, err := unix.PrctlRetInt(unix.PR_GET_IO_FLUSHER, 0, 0, 0, 0); err == nil && on == 1 {
		log.Trace().Msg("the threads are I/O flushers")
	} else if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_IO_FLUSHER, 1,
		0, 0, 0, 0); errno != 0 && !errors.Is(errno, syscall.ENOTSUP) {
		log.Warn().Err(errno).Msg("cannot mark the threads as I/O flushers")
	}
	// Pages stay once they are there. Not all at once: queue buffers are large
	// and mostly unused.
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

// spareProcessors are there for goroutines besides the queues': the keeper, and
// one that is idle. Only if one is idle does the runtime leave a queue's thread
// its own while it waits in the kernel.
const spareProcessors = 2

// reserveProcessors lets enough goroutines run at a time, whatever the number of
// CPUs. One that nobody uses costs nothing.
func reserveProcessors(queues int) {
	if n := queues + spareProcessors; runtime.GOMAXPROCS(0) < n {
		runtime.GOMAXPROCS(n)
	}
}

// setIOFlusher marks the calling thread. Its failure was logged by harden.
func setIOFlusher() { _ = unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0) }

// canFlush reports whether PR_SET_IO_FLUSHER is allowed: it takes
// CAP_SYS_RESOURCE, and a queue that asks for it in vain would not start.
func canFlush() bool { return unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0) == nil }
