package main

import "golang.org/x/sys/unix"

// enoughFiles is how many descriptors a server may come to need: queues, spare
// devices and the places of its socket.
const enoughFiles = 1024

// unlimit raises the limits that this process has from who started it: CPU time, the size of
// files that it writes (the backing can be a file), memory. The server of a disk must not die of
// them. A limit that it may not raise stays; a start that then lacks something says what.
func unlimit() {
	for _, which := range []int{unix.RLIMIT_CPU, unix.RLIMIT_FSIZE, unix.RLIMIT_AS,
		unix.RLIMIT_DATA, unix.RLIMIT_MEMLOCK} {
		raise(which, unix.RLIM_INFINITY)
	}
	raise(unix.RLIMIT_NOFILE, enoughFiles)
}

// raise makes a limit at least n, or else as large as this user may.
func raise(which int, n uint64) {
	var now unix.Rlimit
	if unix.Getrlimit(which, &now) != nil || now.Cur >= n {
		return
	}
	if unix.Setrlimit(which, &unix.Rlimit{Cur: n, Max: max(n, now.Max)}) != nil {
		// as it was, then
		_ = unix.Setrlimit(which, &unix.Rlimit{Cur: min(n, now.Max), Max: now.Max})
	}
}
