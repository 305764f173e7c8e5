package hostile

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ublkremap/internal/control"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// runDir is where the servers keep their files.
var runDir = control.Dir()

// TestOutputGoesNowhere: a start whose output cannot be written says so, and the
// device that it started is whole and can be stopped.
func TestOutputGoesNowhere(t *testing.T) {
	vmtest.OnOneKernel(t)
	need(t)
	s := rig.Create(t, vmtest.NewLoop(t, diskSize, vmtest.LoopOptions{}), "", "--spare", "1MiB")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	must(t, err)
	defer full.Close()
	for what, out := range map[string]*os.File{"no space left": full,
		"broken pipe": closedPipe(t)} {
		cmd, text := run(t, out, nil, "start", s.Path)
		_ = cmd.Wait()
		refusal(t, "start, standard output: "+what, rig.Result{Code: cmd.ProcessState.ExitCode(),
			Stderr: text.String()}, rig.ExitFailed,
			what, "is live", "ublk-remap stop "+s.Name)
		s.Dev = s.Name
		if st := s.Status(t); st.State != "live" {
			t.Errorf("%s: it is %s", what, st.State)
		}
		rig.Remap(t, "stop", s.Name).Want(t, 0)
	}
	// All of them are missing. The verbs still answer.
	r := sh(t, `exec "$1" start "$2" <&- >&- 2>&-`, s.Path)
	if r.Code != 0 {
		t.Errorf("start without standard files: %s", r)
	}
	if st := s.Status(t); st.State != "live" {
		t.Errorf("it is %s", st.State)
	}
	rig.Remap(t, "stop", s.Name).Want(t, 0)
	nothingLeft(t)
}

// TestForegroundSurvivesItsTerminal: a server in the foreground whose terminal
// hangs up and whose log nobody reads any more serves on.
func TestForegroundSurvivesItsTerminal(t *testing.T) {
	vmtest.OnOneKernel(t)
	need(t)
	s := rig.Create(t, vmtest.NewLoop(t, diskSize, vmtest.LoopOptions{}), "", "--spare", "1MiB")
	cmd, _ := run(t, closedPipe(t), closedPipe(t), "start", "--foreground", "--log-level", "trace",
		s.Path)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	s.Dev = s.Name
	rig.Until(t, "the start", func() bool {
		return strings.Contains(rig.Remap(t, "list").Stdout, " live ")
	})
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGUSR1,
		syscall.SIGUSR2} {
		must(t, cmd.Process.Signal(sig))
	}
	rig.Remap(t, "remap", "add", s.Name, "1000+8").Want(t, 0) // something to log
	if st := s.Status(t); st.State != "live" || st.ServerPID != cmd.Process.Pid {
		t.Errorf("%+v", st)
	}
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	if err := <-ended; err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	nothingLeft(t)
	s.Check(t)
}

// TestLimits: what ulimit says is lifted, or the start says what it lacks and
// leaves nothing behind.
func TestLimits(t *testing.T) {
	vmtest.OnOneKernel(t)
	need(t)
	file := newFile(t)
	s := rig.Create(t, file, "", "--spare", "1MiB")
	for _, limit := range []string{
		"ulimit -f 1; ulimit -t 1; ulimit -n 8; ulimit -l 0; ulimit -c 0",
		"ulimit -v 2000000; umask 0",
	} {
		r := sh(t, limit+`; exec "$1" start "$2"`, file)
		if r.Code != 0 {
			t.Errorf("%s: %s", limit, r)
			nothingLeft(t)
			continue
		}
		s.Dev = r.Want(t, 0)
		d := rig.Open(t, s.Dev)
		d.Fill(t, d.Size-rig.Step, d.Size, 5) // far behind any limit on files
		must(t, d.Flush())
		d.Close()
		for _, suffix := range []string{".sock", ".json", ".lock", ".log"} {
			if st, err := os.Stat(s.RunFile(suffix)); err != nil ||
				st.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v, %v", suffix, st.Mode(), err)
			}
		}
		s.Stop(t)
	}
	s.Check(t)
}

// TestNotRoot: a user without the right to do something gets one line that says so.
func TestNotRoot(t *testing.T) {
	vmtest.OnOneKernel(t)
	need(t)
	disk := vmtest.NewLoop(t, diskSize, vmtest.LoopOptions{})
	s := rig.Create(t, disk, "", "--spare", "1MiB")
	s.Start(t)
	// The program where anybody can run it.
	text, err := os.ReadFile(vmtest.Binary(t))
	must(t, err)
	dir, err := os.MkdirTemp("/tmp", "anybody-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	bin := filepath.Join(dir, "ublk-remap")
	must(t, os.WriteFile(bin, text, 0o755))
	for _, args := range [][]string{
		{"create", disk}, {"start", disk}, {"stop", s.Dev}, {"list"}, {"remap", "list", s.Name},
		{"metadata", "check", disk},
	} {
		cmd := exec.Command(bin, args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534,
			Gid: 65534}}
		var errs strings.Builder
		cmd.Stderr = &errs
		_ = cmd.Run()
		refusal(t, "as nobody: "+strings.Join(args, " "),
			rig.Result{Code: cmd.ProcessState.ExitCode(), Stderr: errs.String()}, rig.ExitFailed,
			"permission denied", "root")
	}
	s.Stop(t)
	s.Check(t)
}

// TestPlantedFiles: other files in the places of the program's files are not followed, removed or
// believed, and a start that meets them leaves nothing.
func TestPlantedFiles(t *testing.T) {
	vmtest.OnOneKernel(t)
	need(t)
	disk := vmtest.NewLoop(t, diskSize, vmtest.LoopOptions{})
	s := rig.Create(t, disk, "", "--spare", "1MiB")
	victim := filepath.Join(t.TempDir(), "victim")
	must(t, os.WriteFile(victim, []byte("keep"), 0o600))
	at := func(suffix string) string { return s.RunFile(suffix) }
	must(t, os.MkdirAll(runDir, 0o700))
	try := func(what string, says ...string) {
		t.Helper()
		refusal(t, what, rig.Remap(t, "start", disk), rig.ExitRefused, says...)
		nothingLeft(t)
		if text, err := os.ReadFile(victim); err != nil || string(text) != "keep" {
			t.Errorf("%s: the victim holds %q, %v", what, text, err)
		}
	}
	for _, c := range []struct {
		what, path string
		plant      func(string) error
	}{
		{"the socket is a link", at(".sock"),
			func(p string) error { return os.Symlink(victim, p) }},
		{"the socket is a directory", at(".sock"),
			func(p string) error { return os.Mkdir(p, 0o700) }},
		{"the socket is a file", at(".sock"), func(p string) error {
			return os.WriteFile(p, nil,
				0o600)
		}},
		{"the lock is a link", at(".lock"), func(p string) error { return os.Symlink(victim, p) }},
		{"the lock is a pipe", at(".lock"), func(p string) error { return unix.Mkfifo(p, 0o600) }},
	} {
		_ = os.Remove(c.path)
		must(t, c.plant(c.path))
		try(c.what, c.path)
		must(t, os.Remove(c.path))
	}
	must(t, os.Chmod(runDir, 0o777))
	try("others may write to the directory", runDir, "0777")
	refusal(t, "list there", rig.Remap(t, "list"), rig.ExitRefused, runDir)
	refusal(t, "stop there", rig.Remap(t, "stop", s.Name), rig.ExitRefused, runDir)
	must(t, os.Chmod(runDir, 0o700))
	must(t, os.Chown(runDir, 12345, 12345))
	try("the directory is somebody else's", runDir, "12345")
	must(t, os.Chown(runDir, 0, 0))
	must(t, os.Rename(runDir, runDir+".real"))
	must(t, os.Symlink(runDir+".real", runDir))
	try("the directory is a link", runDir)
	must(t, os.Remove(runDir))
	must(t, os.Rename(runDir+".real", runDir))

	// A record with contents that no server writes is not used. The program reports it and does not
	// do what it asks for.
	const record = `{"name":%q,"uuid":"x","id":0,"device":"/dev/loop0","backing":"/etc/passwd"}`
	must(t, os.WriteFile(at(".json"), fmt.Appendf(nil, record, s.Name), 0o600))
	refusal(t, "stop by a bad record", rig.Result{Code: rig.Remap(t, "stop", "--log-level",
		"disabled", s.Name).Code, Stderr: "ublk-remap: "}, rig.ExitNotFound)
	s.Start(t)
	s.Stop(t)
	s.Check(t)
}

// TestMountedElsewhere: a device that is mounted where this process cannot see
// it is in use anyway.
func TestMountedElsewhere(t *testing.T) {
	vmtest.OnOneKernel(t)
	need(t)
	s := rig.Create(t, vmtest.NewLoop(t, 64<<20, vmtest.LoopOptions{}), "", "--spare", "1MiB")
	s.Start(t)
	vmtest.Mkfs(t, "ext4", s.Dev)
	dir := t.TempDir()
	elsewhere := rig.MountElsewhere(t, s.Dev, dir)
	refusal(t, "stop, mounted in another namespace", rig.Remap(t, "stop", s.Dev), rig.ExitRefused,
		"in use")
	elsewhere.End()
	s.LetDie() // in order, and at the first try that is let through
	rig.Until(t, "the end of the namespace",
		func() bool { return rig.Remap(t, "stop", s.Dev).Code == 0 })
	s.Dev = ""
	s.Check(t)
}
