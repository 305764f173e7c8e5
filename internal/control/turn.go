package control

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// This file lets only some of many processes begin, or end, a device at the same time. Each such
// process looks at all disks and all processes of the host, and has time limits. At boot there can
// be hundreds of them. If all ran at once, the CPUs would be too busy for any of them to meet its
// limits. One after another, each takes a moment.

const (
	// turnHold is for how long a process has its turn at most. A process whose disk hangs must not
	// hold up the others.
	turnHold = 20 * time.Second
	// A process that waits checks whether it is its turn first after turnPoll, and then each time
	// that it has waited for an eighth longer, but not less often than turnPollMost. If hundreds
	// checked all the time, that alone would keep the CPUs busy.
	turnPoll     = 20 * time.Millisecond
	turnPollMost = time.Second
	turnPollPart = 8
)

// turns is how many processes may have their turn at once.
func turns() int64 { return int64(max(2*runtime.NumCPU(), 4)) }

// Turn waits until few enough other processes begin or end a device, and at most for so long. Call
// release when this process is done. Further calls do nothing. The turn also ends with the process,
// and after turnHold. If there is no runtime directory, Turn does not wait.
func Turn(ctx context.Context, wait time.Duration) (release func()) {
	f, err := open(filepath.Join(Dir(), ".turns"), os.O_RDWR|os.O_CREATE)
	if err != nil {
		return func() {}
	}
	release = sync.OnceFunc(func() { f.Close() })
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for began := time.Now(); ; {
		for n := range turns() {
			// A lock of the open file on one byte of it. The kernel releases it when the process
			// ends.
			if unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK,
				Start: n, Len: 1}) == nil {
				time.AfterFunc(turnHold, release)
				return release
			}
		}
		select {
		case <-ctx.Done():
			return release
		case <-time.After(turnPause(time.Since(began))):
		}
	}
}

// turnPause is how long a process that has waited for so long waits until it checks again.
func turnPause(waited time.Duration) time.Duration {
	return min(max(waited/turnPollPart, turnPoll), turnPollMost)
}
