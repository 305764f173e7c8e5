package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// onTerminal runs the program on a terminal of its own and returns what is written there. begun, if
// there is one, is called once a line of progress has been drawn.
func onTerminal(t *testing.T, columns uint16, begun func(*os.Process), args ...string) (said string,
	code int) {
	t.Helper()
	master, slave := terminal(t, columns)
	cmd := exec.Command(vmtest.Binary(t), args...)
	cmd.Stdin, cmd.Stderr = slave, slave
	cmd.Env = append(os.Environ(), "TERM=linux")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	must(t, cmd.Start())
	must(t, slave.Close())
	var all []byte
	for b := make([]byte, 4096); ; {
		n, err := master.Read(b)
		all = append(all, b[:n]...)
		if begun != nil && strings.Contains(string(all), wiped) {
			begun(cmd.Process)
			begun = nil
		}
		if err != nil {
			break // EIO: nobody has the terminal any more
		}
	}
	_ = cmd.Wait()
	return string(all), cmd.ProcessState.ExitCode()
}

// wiped begins each line of progress, and ends the last one.
const wiped = "\r\x1b[K"

// wantProgress runs the program, which must tell how far it is in the form that is wanted, and must
// leave nothing of that on the terminal.
func wantProgress(t *testing.T, want string, args ...string) {
	t.Helper()
	said, code := onTerminal(t, 90, nil, args...)
	lines := strings.Split(said, wiped)
	if code != 0 || len(lines) < 3 || lines[0] != "" || lines[len(lines)-1] != "" ||
		strings.Contains(said, "\n") {
		t.Errorf("%q ends with %d: %q", args, code, said)
	}
	re := regexp.MustCompile(want)
	for _, line := range lines {
		if len(line) > 87 {
			t.Errorf("%q: a line of %d columns: %q", args, len(line), line)
		}
		if re.MatchString(line) {
			t.Logf("%s", line)
			return
		}
	}
	t.Errorf("%q: no line is %s: %q", args, want, said)
}

// TestLongVerbsTell: on a slow disk each verb tells on a terminal how far it is, and nothing
// without one. An interrupt leaves the terminal clean.
func TestLongVerbsTell(t *testing.T) {
	vmtest.Long(t)
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	vmtest.Modprobe(t, "dm-delay")
	lower := vmtest.NewLoop(t, 256<<20, vmtest.LoopOptions{})
	disk := vmtest.NewDM(t, vmtest.LinearTable(t, lower))
	slow := func(ms int) { disk.Swap(t, vmtest.DelayTable(t, lower, ms, ms)) }
	slow(10)
	wantProgress(t, `^(\[[#-]{20}\] )?trying the places that the set relies on: \d+% of .*/s, `+
		`.* left`,
		"create", disk.Path, "--name", "far", "--spare", "32MiB")
	slow(100)
	wantProgress(t, `^starting far: \d+s so far`, "start", "far")
	slow(20)
	// The places that a move needs are far more than what two seconds are enough for.
	move := `^(\[[#-]{20}\] )?/dev/ublkb\d+: moving: \d+% of 24,000 blocks, [\d,]+/s, \d.* left`
	wantProgress(t, move, "remap", "add", "far", "8192+24000")
	if r := rig.Want(t, 0, "remap", "remove", "far", "8192+8000"); r.Stderr != "" {
		t.Errorf("without a terminal: %q", r.Stderr)
	}
	if r := rig.Want(t, 0, "remap", "remove", "far", "16192+8000", "--json"); r.Stderr != "" {
		t.Errorf("with --json: %q", r.Stderr)
	}
	said, code := onTerminal(t, 20, func(p *os.Process) { must(t, p.Signal(unix.SIGINT)) },
		"remap", "remove", "far", "24192+8000")
	at := strings.LastIndex(said, wiped)
	if code != 1 || at < 0 || !strings.HasPrefix(said[at+len(wiped):], "ublk-remap: ") {
		t.Errorf("interrupted: %d, %q", code, said)
	}
	for _, line := range strings.Split(said[:max(at, 0)], wiped) {
		if len(line) > 17 {
			t.Errorf("in 20 columns: %q", line)
		}
	}
	slow(1000)
	wantProgress(t, `^stopping far: \d+s so far`, "stop", "far")
	slow(100)
	wantProgress(t, `^reading the metadata of .*iB, .*/s, \d+s so far`, "metadata", "check",
		disk.Path)
	slow(50)
	f := rig.Open(t, lower)
	must(t, f.Write(rig.Aligned(4096), 0))
	f.Close()
	wantProgress(t, `^(\[[#-]{20}\] )?writing the metadata of .*: \d+% of .*/s, .* left`,
		"metadata", "repair", disk.Path, "--yes")
}

// TestFilesTells: a walk through a file system tells how many of its files it has met.
func TestFilesTells(t *testing.T) {
	vmtest.Long(t)
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	vmtest.Modprobe(t, "dm-delay")
	lower := vmtest.NewLoop(t, 256<<20, vmtest.LoopOptions{})
	disk := vmtest.NewDM(t, vmtest.LinearTable(t, lower))
	rig.Want(t, 0, "create", disk.Path, "--name", "many", "--spare", "2MiB")
	dev := rig.StartDevice(t, disk.Path)
	vmtest.Mkfs(t, "ext4", dev)
	dir := vmtest.Mount(t, "ext4", dev)
	const dirs, each = 200, 20
	for i := range dirs {
		sub := filepath.Join(dir, fmt.Sprintf("%03d", i))
		must(t, os.Mkdir(sub, 0o755))
		for k := range each {
			must(t, os.WriteFile(filepath.Join(sub, fmt.Sprintf("file%02d", k)), []byte("x"),
				0o644))
		}
	}
	vmtest.Unmount(t, dir)
	dir = vmtest.Mount(t, "ext4", dev)
	// Each directory is read, so that the walk takes more than two seconds.
	disk.Swap(t, vmtest.DelayTable(t, lower, 20, 0))
	wantProgress(t, `^(\[[#-]{20}\] )?looking for the owners of blocks: \d+% of [\d,]+ files, `+
		`[\d,]+/s, \d+s left`, "files", "many", "0+400000")
	disk.Swap(t, vmtest.LinearTable(t, lower))
	vmtest.Unmount(t, dir)
	rig.Want(t, 0, "stop", "many")
}
