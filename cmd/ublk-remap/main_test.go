package main

import (
	"os"
	"runtime/debug"
	"slices"
	"testing"
)

// TestMain runs the program when a test starts its own executable as the program. Tests call the
// command in their own process, where /proc/self/exe is this test program, which would run all
// tests again. The search for a newer disk works in such a process, but no server starts. A test
// that needs a server runs the program that was built.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "start" {
		if slices.Contains(os.Args, "--look-for-newer") {
			main()
		}
		os.Exit(2)
	}
	// Tests read whole disks, and a guest with 2 GiB keeps its files in memory as well. So garbage
	// is collected before it takes as much memory as the live heap.
	debug.SetMemoryLimit(256 << 20)
	os.Exit(m.Run())
}
