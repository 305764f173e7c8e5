package progress

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// childEnv makes the test binary an operation that tells how far it is on its standard error, until
// its standard input ends. Its value is how it behaves.
const childEnv = "UBLK_REMAP_TEST_PROGRESS"

func TestMain(m *testing.M) {
	if how := os.Getenv(childEnv); how != "" {
		operation(how)
	}
	os.Exit(m.Run())
}

// operation is the child.
func operation(how string) {
	if how == "background" {
		// As a shell does it: a group of processes that does not have the terminal.
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), childEnv+"=plain")
		cmd.Stderr = os.Stderr
		cmd.ExtraFiles = []*os.File{os.NewFile(3, "until")}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Run(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(0)
	}
	o := NewOut(os.Stderr)
	interrupted := make(chan struct{})
	o.Interrupted = interrupted
	if how == "stubborn" {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, os.Interrupt)
		go func() {
			<-signals
			close(interrupted)
			signal.Reset(os.Interrupt) // the second signal ends the program
		}()
	}
	b := o.Start("copying disk")
	b.Set(0, 1000<<20)
	var n atomic.Int64
	go func() {
		for range time.Tick(100 * time.Millisecond) {
			b.Set(n.Add(1<<20), 1000<<20)
		}
	}()
	_, _ = io.Copy(io.Discard, os.NewFile(3, "until"))
	b.End()
	fmt.Fprintln(os.Stderr, "an error")
	os.Exit(0)
}

// tty is a child on a pseudo-terminal.
type tty struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd
	until  io.Closer
	all    string // what was written so far
}

// onTerminal starts the operation on a terminal of its own, of so many columns.
func onTerminal(t *testing.T, how string, columns uint16, env ...string) *tty {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	x := &tty{t: t, master: os.NewFile(uintptr(fd), "ptmx")}
	t.Cleanup(func() { x.master.Close() })
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	x.resize(columns)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	x.until = w
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	x.cmd = exec.Command(self)
	x.cmd.Env = append(append(os.Environ(), "TERM=xterm", childEnv+"="+how), env...)
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = slave, slave, slave
	x.cmd.ExtraFiles = []*os.File{r}
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	t.Cleanup(func() {
		_ = x.cmd.Process.Kill()
		_ = x.cmd.Wait()
	})
	return x
}

func (x *tty) resize(columns uint16) {
	x.t.Helper()
	if err := unix.IoctlSetWinsize(int(x.master.Fd()), unix.TIOCSWINSZ,
		&unix.Winsize{Row: 24, Col: columns}); err != nil {
		x.t.Fatal(err)
	}
}

// patience is only for a test that fails.
const patience = 2 * time.Minute

// read reads until what was written is as it should be. A terminal of which the last user has gone
// has no more to say.
func (x *tty) read(what string, ok func(all string) bool) {
	x.t.Helper()
	buf := make([]byte, 4096)
	for deadline := time.Now().Add(patience); !ok(x.all); {
		if time.Now().After(deadline) {
			x.t.Fatalf("%s: after %q", what, x.all)
		}
		fds := []unix.PollFd{{Fd: int32(x.master.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(patience.Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if n > 0 {
			n, err = unix.Read(int(x.master.Fd()), buf)
		}
		if n <= 0 || err != nil {
			x.t.Fatalf("%s: after %q: %v", what, x.all, err)
		}
		x.all += string(buf[:n])
	}
}

// shown are the lines of progress that were drawn.
func (x *tty) shown() []string { return strings.Split(x.all, wipe)[1:] }

func (x *tty) last() string {
	all := x.shown()
	if len(all) < 2 {
		return ""
	}
	return all[len(all)-2] // the one behind it may be half read
}

// TestTerminal: a line is drawn on a real terminal, follows its size, and is wiped off at the end;
// an error stands alone in its line.
func TestTerminal(t *testing.T) {
	t.Parallel()
	x := onTerminal(t, "plain", 80)
	x.read("begin", func(string) bool { return strings.Contains(x.last(), "copying disk: ") })
	x.resize(20)
	x.read("20 columns", func(string) bool {
		return strings.HasSuffix(x.last(), " left") && len(x.last()) <= 17
	})
	x.resize(200)
	x.read("200 columns", func(string) bool { return strings.HasPrefix(x.last(), "[") })
	x.until.Close()
	x.read("end", func(all string) bool { return strings.HasSuffix(all, "an error\r\n") })
	if !strings.HasSuffix(x.all, wipe+"an error\r\n") || strings.Count(x.all, "\n") != 1 {
		t.Errorf("%q", x.all)
	}
	if strings.Contains(x.all, "\x1b[3") {
		t.Errorf("in colour: %q", x.all)
	}
}

// TestInterrupt: after Ctrl-C there is no line, and a second one, which ends the program at once,
// leaves none. Somebody who waits is told what to do.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	x := onTerminal(t, "stubborn", 80, "NO_COLOR=1")
	x.read("begin", func(string) bool { return strings.Contains(x.last(), "copying disk") })
	if _, err := x.master.WriteString("\x03"); err != nil {
		t.Fatal(err)
	}
	const said = "interrupted: copying disk ends when what is under way is done; once more ends " +
		"it at once\r\n"
	x.read("interrupted", func(all string) bool { return strings.HasSuffix(all, said) })
	if !strings.HasSuffix(x.all, wipe+said) {
		t.Errorf("not wiped off: %q", x.all)
	}
	if _, err := x.master.WriteString("\x03"); err != nil {
		t.Fatal(err)
	}
	x.read("ended", func(all string) bool { return strings.HasSuffix(all, "^C") })
	if err := x.cmd.Wait(); err == nil || !strings.Contains(err.Error(), "interrupt") {
		t.Errorf("%v", err)
	}
	if !strings.HasSuffix(x.all, said+"^C") {
		t.Errorf("a line is left: %q", x.all)
	}
}

// TestQuiet: nothing but the error is written where the terminal is dumb, and where the terminal is
// that of a shell that has put the job into the background.
func TestQuiet(t *testing.T) {
	for how, env := range map[string]string{"plain": "TERM=dumb", "background": "TERM=xterm"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			x := onTerminal(t, how, 80, env)
			time.Sleep(After + time.Second) // a line would be drawn by now
			x.until.Close()
			x.read("end", func(all string) bool { return strings.HasSuffix(all, "an error\r\n") })
			if x.all != "an error\r\n" {
				t.Errorf("%q", x.all)
			}
		})
	}
}
