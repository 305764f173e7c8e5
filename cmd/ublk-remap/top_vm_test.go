package main

import (
	"bytes"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestTop: top shows on a terminal what happens to a device: a heal, the death of the server and
// the next one. Without a terminal it refuses.
func TestTop(t *testing.T) {
	vmtest.OnOneKernel(t)
	if testing.Short() {
		t.Skip("internal/top is tested on a terminal without a guest")
	}
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	lower := vmtest.NewLoop(t, 64<<20, vmtest.LoopOptions{})
	disk := vmtest.NewDM(t, vmtest.LinearTable(t, lower))
	rig.Want(t, 0, "create", disk.Path, "--name", "seen", "--spare", "1MiB")
	dev := rig.StartDevice(t, disk.Path)
	rig.Want(t, 2, "top")

	master, slave := terminal(t, 100)
	cmd := exec.Command(vmtest.Binary(t), "top")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.Env = append(os.Environ(), "TERM=xterm-256color")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	must(t, cmd.Start())
	var mu sync.Mutex
	var all []byte
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			if err != nil {
				return
			}
			mu.Lock()
			all = append(all, b[:n]...)
			mu.Unlock()
		}
	}()
	// What is drawn later is only what changes. A window of another size is drawn as a whole.
	columns := uint16(100)
	shows := func(text string) {
		t.Helper()
		rig.Until(t, text+" on the screen", func() bool {
			columns = 201 - columns
			must(t, unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ,
				&unix.Winsize{Row: 24, Col: columns}))
			mu.Lock()
			defer mu.Unlock()
			return bytes.Contains(all, []byte(text))
		})
		mu.Lock()
		defer mu.Unlock()
		all = nil
	}
	shows("all is well")
	f := rig.Open(t, dev)
	disk.Swap(t, vmtest.ErrorTable(t, lower, vmtest.Extent{Start: 40000, Count: 8}))
	for off := int64(0); off < f.Size/2; off += 1 << 20 {
		must(t, f.Write(rig.Aligned(1<<20), off))
	}
	f.Close()
	shows("block 40000")
	if _, err := master.WriteString("mn"); err != nil {
		t.Fatal(err)
	}
	shows("8 in the spare region")
	rig.Kill(t, dev)
	shows("its server is dead")
	rig.Want(t, 0, "start", "seen")
	shows("all is well")
	if _, err := master.WriteString("q"); err != nil {
		t.Fatal(err)
	}
	must(t, cmd.Wait())
}
