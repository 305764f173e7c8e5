package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestKilledWhileLimitWaits: the server is killed while larger requests are being allowed, which
// waits for all requests, and a request waits for the disk. The process must end all the same, or
// no other server could recover the device.
func TestKilledWhileLimitWaits(t *testing.T) {
	vmtest.NeedUblk(t)
	vmtest.OnOneKernel(t)
	rig.Guard(t, 4*time.Minute)
	vmtest.Modprobe(t, "dm-delay")
	const size, at, hours = 64 << 20, 24 << 20, 5 * 3600 * 1000
	lower := vmtest.NewLoop(t, size, vmtest.LoopOptions{})
	disk := vmtest.NewDM(t, vmtest.LinearTable(t, lower))
	s := rig.Create(t, disk.Path, "", "--spare", "1MiB")
	s.CheckAtEnd(t)
	// Reads of these sectors hang until they are let go.
	disk.Swap(t, fmt.Sprintf("0 %d linear %s 0\n%d 8 delay %s %d %d %s %d 0\n%d %d linear %s %d\n",
		at/512, lower, at/512, lower, at/512, hours, lower, at/512, at/512+8, size/512-at/512-8,
		lower, at/512+8))
	letGo := sync.OnceFunc(func() { disk.Swap(t, vmtest.LinearTable(t, lower)) })
	defer letGo()
	s.Start(t, "--queues", "1", dataPath(false))
	f := rig.Open(t, s.Dev)
	defer f.Close()
	// A request as large as can be has the server allow larger ones. The rest of it waits for that,
	// and the request waits for the disk.
	answer := make(chan error, 1)
	go func() { answer <- f.Read(rig.Aligned(1<<20), at) }()
	rig.Until(t, "a limit that waits", limitWaits)
	s.Kill(t)
	letGo()
	s.Start(t)
	if err := <-answer; err != nil {
		t.Errorf("a read that waited: %v", err)
	}
	rig.Until(t, "a limit that is written", func() bool { return !limitWaits() })
	go func() { answer <- f.Read(rig.Aligned(1<<20), at) }()
	if err := <-answer; err != nil {
		t.Errorf("a large read: %v", err)
	}
}

// limitWaits reports whether a process of a server writes a limit.
func limitWaits() bool {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		if words, err := os.ReadFile(path); err == nil &&
			bytes.Contains(words, []byte("\x00write-limit\x00")) {
			return true
		}
	}
	return false
}
