package vmtest

import (
	"hash/fnv"
	"os"
	"testing"
)

// OnOneKernel skips the test on one of the two emulated kernels that `make test` runs: which one
// follows from its name. It is for tests of what does not depend on the kernel. They run on both
// with UBLK_REMAP_FULL, and always under user-mode Linux or when GuestAllEnv is set.
func OnOneKernel(t testing.TB) {
	t.Helper()
	if !Shared() {
		return
	}
	if older := KernelVersion().Less(V(7, 0)); older != onOlder(t.Name()) {
		t.Skip("it runs on the other kernel; on both with " + GuestAllEnv + " or " + FullEnv)
	}
}

// OnNewerKernel is OnOneKernel for tests that take every path of I/O that the kernel has: the newer
// kernel has those of the older one too.
func OnNewerKernel(t testing.TB) {
	t.Helper()
	if OnOlderKernel() {
		t.Skip("it runs on the newer kernel; on both with " + GuestAllEnv + " or " + FullEnv)
	}
}

// OnOlderKernel reports whether this is the older of the two emulated kernels that share the tests.
func OnOlderKernel() bool { return Shared() && KernelVersion().Less(V(7, 0)) }

// Shared reports whether the emulated kernels that `make test` runs share the tests that need not
// run on each of them.
func Shared() bool {
	return InGuest() && !UserMode() && !Full() && os.Getenv(GuestAllEnv) == ""
}

// Long skips a test that takes long where the CPU is emulated, as `make test` does. It runs under
// user-mode Linux, with UBLK_REMAP_FULL, and when GuestAllEnv is set.
func Long(t testing.TB) {
	t.Helper()
	if Shared() {
		t.Skip("it takes long here; run it by: make test-vm KERNEL=uml, or with " + FullEnv)
	}
}

// GuestAllEnv names the environment variable that has all tests run on each kernel.
const GuestAllEnv = "UBLK_REMAP_ALL_KERNELS"

// onOlder says whether the test of this name runs on the older kernel.
func onOlder(name string) bool {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return h.Sum32()%2 == 0
}
