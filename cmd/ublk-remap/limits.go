package main

import "golang.org/x/sys/unix"

// enoughFiles is how many descriptors a server may need: for queues, spare devices and the
// connections of its socket.
const enoughFiles = 1024

// unlimit raises the limits that this process inherited: CPU time, the size of files that it writes
// (the backing can be a file), memory. These limits must not kill the server of a disk. A limit
// that it may not raise stays. If a start then lacks something, it says what.
func unlimit() {
	for _, which := range []int{unix.RLIMIT_CPU, unix.RLIMIT_FSIZE, unix.RLIMIT_AS,
		unix.RLIMIT_DATA, unix.RLIMIT_MEMLOCK} {
		raise(which, unix.RLIM_INFINITY)
	}
	raise(unix.RLIMIT_NOFILE, enoughFiles)
}

// raise sets a limit to at least n, or else to the largest value that this user may set.
func raise(which int, n uint64) {
	var now unix.Rlimit
	if unix.Getrlimit(which, &now) != nil || now.Cur >= n {
		return
	}
	if unix.Setrlimit(which, &unix.Rlimit{Cur: n, Max: max(n, now.Max)}) != nil {
		// The hard limit could not be raised, so it stays as it was.
		_ = unix.Setrlimit(which, &unix.Rlimit{Cur: min(n, now.Max), Max: now.Max})
	}
}
