package e2e

import (
	"testing"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// zeroCopyMin is the first kernel with the zero copy that the program uses:
// UBLK_F_AUTO_BUF_REG. batchMin is the first with UBLK_F_BATCH_IO.
var (
	zeroCopyMin = vmtest.V(6, 16)
	batchMin    = vmtest.V(7, 0)
)

// way is how a device exchanges data and requests with the kernel. A tuned one has
// what is off by default and does not depend on the kernel: its queues poll, and
// their buffers are huge pages.
type way struct{ zeroCopy, batch, tuned bool }

func (w way) String() string {
	s := pathName(w.zeroCopy)
	if w.batch {
		s += "-batch"
	}
	if w.tuned {
		s += "-tuned"
	}
	return s
}

// flags are those of start that force this way.
func (w way) flags() []string {
	all := []string{dataPath(w.zeroCopy), "--batch-io=off"}
	if w.batch {
		all[1] = "--batch-io=on"
	}
	if w.tuned {
		all = append(all, "--poll=100us", "--huge-pages")
	}
	return all
}

// start starts a server with further flags.
func (w way) start(t testing.TB, s *rig.Set, args ...string) {
	t.Helper()
	s.Start(t, append(w.flags(), args...)...)
}

// allWays are those that the kernel has.
func allWays() []way {
	var all []way
	for _, zc := range paths() {
		for _, batch := range []bool{false, true} {
			if batch && vmtest.KernelVersion().Less(batchMin) {
				continue
			}
			all = append(all, way{zc, batch, false}, way{zc, batch, true})
		}
	}
	return all
}

// ways are all of them if everything is to be tested, else one for each path of
// the data, so that batch I/O and the tuned ones are among them where the kernel has
// more than one path. If servers are to be killed batch I/O is left out under
// user-mode Linux, which panics then: ublk.KnownBadBatchIO.
func ways(killed bool) []way {
	noBatch := vmtest.KernelVersion().Less(batchMin) || killed && vmtest.UserMode()
	var chosen []way
	for _, w := range allWays() {
		switch {
		case w.batch && noBatch:
		case !vmtest.Full() && w != (way{w.zeroCopy, w.zeroCopy && !noBatch, w.zeroCopy}):
		default:
			chosen = append(chosen, w)
		}
	}
	return chosen
}
