package e2e

import "ublkremap/internal/vmtest"

// zeroCopyMin is the first kernel with the zero copy that the program uses:
// UBLK_F_AUTO_BUF_REG. batchMin is the first with UBLK_F_BATCH_IO.
var (
	zeroCopyMin = vmtest.V(6, 16)
	batchMin    = vmtest.V(7, 0)
)

// way is how a device exchanges data and requests with the kernel.
type way struct{ zeroCopy, batch bool }

func (w way) String() string {
	if w.batch {
		return pathName(w.zeroCopy) + "-batch"
	}
	return pathName(w.zeroCopy)
}

// batchFlag is the flag of start that forces one command for many requests, or
// one for each.
func (w way) batchFlag() string {
	if w.batch {
		return "--batch-io=on"
	}
	return "--batch-io=off"
}

// allWays are those that the kernel has.
func allWays() []way {
	var all []way
	for _, zc := range paths() {
		all = append(all, way{zc, false})
		if !vmtest.KernelVersion().Less(batchMin) {
			all = append(all, way{zc, true})
		}
	}
	return all
}

// ways are all of them if everything is to be tested, else one for each path of
// the data, so that batch I/O is among them where the kernel has it. If servers
// are to be killed it is left out under user-mode Linux, which panics then:
// ublk.KnownBadBatchIO.
func ways(killed bool) []way {
	var chosen []way
	for _, w := range allWays() {
		batch := !vmtest.KernelVersion().Less(batchMin) && !(killed && vmtest.UserMode())
		switch {
		case w.batch && !batch:
		case !vmtest.Full() && batch && w.batch != w.zeroCopy:
		default:
			chosen = append(chosen, w)
		}
	}
	return chosen
}
