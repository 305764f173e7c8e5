package main

import (
	"os"
	"runtime/debug"
	"slices"
	"testing"
)

// TestMain is the program for those that it starts as itself: tests call it in
// their own process, so that /proc/self/exe is this test program, which would run all tests
// anew. The question whether there is a newer disk is answered; a server there is
// none. A test that wants one runs the program that was built.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "start" {
		if slices.Contains(os.Args, "--look-for-newer") {
			main()
		}
		os.Exit(2)
	}
	// Tests read whole disks, and a guest with 2 GiB keeps its files in memory as well: garbage is
	// collected before there is as much of it as of what lives.
	debug.SetMemoryLimit(256 << 20)
	os.Exit(m.Run())
}
