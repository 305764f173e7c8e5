package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// newDisk prepares a disk called "life" and checks its metadata in the end.
func newDisk(t *testing.T, blockSize uint32, args ...string) string {
	t.Helper()
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	disk := vmtest.NewLoop(t, 96<<20, vmtest.LoopOptions{BlockSize: blockSize})
	create := []string{"create", disk, "--name", "life", "--spare", "2MiB"}
	rig.Want(t, 0, append(create, args...)...)
	return disk
}

// listed is what list shows about a set.
func listed(t *testing.T, name string) rig.Item {
	t.Helper()
	for _, it := range rig.List(t) {
		if it.Name == name {
			return it
		}
	}
	return rig.Item{}
}

// awaitFailed waits until the status shows that the server of "life" is dead, and returns that
// status. A dying server neither answers nor releases its name.
func awaitFailed(t *testing.T) (st rig.Status) {
	t.Helper()
	rig.Until(t, "the server's death", func() bool {
		st = rig.StatusOf(t, "life")
		return st.State == control.StateFailed
	})
	return st
}

// interrupted starts the program, interrupts it when when says so, and returns its output. The
// program must have failed.
func interrupted(t *testing.T, when func(said string) bool, args ...string) string {
	t.Helper()
	cmd := exec.Command(vmtest.Binary(t), args...)
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	cmd.Stderr = w
	must(t, cmd.Start())
	must(t, w.Close())
	said, buf := "", make([]byte, 4096)
	sent := false
	for {
		if !sent && when(said) {
			sent = true
			must(t, cmd.Process.Signal(syscall.SIGINT))
		}
		must(t, r.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		n, err := r.Read(buf)
		said += string(buf[:n])
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	var e *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &e) || e.ExitCode() != exit.Failed || !sent {
		t.Errorf("ublk-remap %s, interrupted: %v\n%s", strings.Join(args, " "), err, said)
	}
	return said
}

func init() {
	// DEVICE: reads eight sectors from the 100000th on.
	rig.Helper("read-slow", func(w []string) error {
		fd, err := unix.Open(w[0], unix.O_RDONLY|unix.O_DIRECT, 0)
		if err != nil {
			return err
		}
		n, err := unix.Pread(fd, rig.Aligned(4096), 100000*512)
		if err == nil && n != 4096 {
			err = io.ErrUnexpectedEOF
		}
		return err
	})
	// DIR PROGRAM DISK: serves the disk as in a container, with files of its own in DIR.
	rig.Helper("contain", func(w []string) error {
		if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("proc", "/proc", "proc", 0, "")); err != nil {
			return err
		}
		cmd := exec.Command(w[1], "start", w[2])
		cmd.Env = append(os.Environ(), control.DirEnv+"="+w[0])
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		rig.Ready()
		return nil
	})
}

// slowPart makes a disk that takes minutes for reads of the sectors 100000 to 100007, until it is
// made fast.
func slowPart(t *testing.T) (path string, hurry func()) {
	t.Helper()
	vmtest.Modprobe(t, "dm-delay")
	lower := vmtest.NewLoop(t, 96<<20, vmtest.LoopOptions{})
	const from, n, ms = 100000, 8, 200_000
	disk := vmtest.NewDM(t, fmt.Sprintf("0 %d linear %s 0\n%d %d delay %s %d %d %s %d 0\n%d %d "+
		"linear %s %d\n",
		from, lower, from, n, lower, from, ms, lower, from, from+n, 96<<20/512-from-n, lower,
		from+n))
	// When another table is loaded, requests that the old one delays end at once.
	return disk.Path, func() { disk.Swap(t, vmtest.LinearTable(t, lower)) }
}

// readSlow reads the slow sectors in a separate process.
func readSlow(t *testing.T, dev string) *rig.Process {
	t.Helper()
	p := rig.LaunchCmd(t, rig.HelperCommand("read-slow", dev))
	rig.Until(t, "a read in flight", func() bool {
		reads, _ := rig.InFlight(t, dev)
		return reads > 0
	})
	return p
}

// awaitLog waits until the server's log has n lines that contain all these texts.
func awaitLog(t *testing.T, n int, parts ...string) {
	t.Helper()
	rig.Await(t, "the log", func() error {
		text, err := os.ReadFile(control.LogPath("life"))
		must(t, err)
		found := 0
		for line := range strings.Lines(string(text)) {
			lacks := func(part string) bool { return !strings.Contains(line, part) }
			if !slices.ContainsFunc(parts, lacks) {
				found++
			}
		}
		if found < n {
			return fmt.Errorf("%d lines say %q, want %d:\n%s", found, parts, n, text)
		}
		return nil
	})
}

// runtimeFiles returns the files of sets in the runtime directory.
func runtimeFiles(t *testing.T) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(control.Dir())
	must(t, err)
	for _, e := range entries {
		// What begins with a dot belongs to the host and to no set.
		if !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names
}

// writeUntil writes and syncs until it is told to stop.
func writeUntil(stop <-chan struct{}, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	data := make([]byte, 256<<10)
	for i := int64(0); ; i++ {
		select {
		case <-stop:
			return f.Sync()
		default:
		}
		if _, err := f.WriteAt(data, i%32*int64(len(data))); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
}
