package system

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/test/vmtest/kernel"
	"ublkremap/test/vmtest/uml"
)

// Env names the environment variable that the make targets set. Without it a
// test that needs a host is skipped; with it, what is missing is a failure. With
// the value IfBuilt user-mode Linux may be missing.
const (
	Env     = "UBLK_REMAP_HOST"
	IfBuilt = "if-built"
)

// Options say what host a test wants.
type Options struct {
	// Suite is one of Suites.
	Suite string
	// Disks are the sizes, in bytes, of empty disks.
	Disks []int64
	// Payload are files to have below /payload: name there, path here.
	Payload map[string]string
	// MemoryMiB is 512 if it is 0.
	MemoryMiB int
	// Packages of Debian are installed besides what each host has.
	Packages []string
	// PackagesOf are further packages of one suite.
	PackagesOf map[string][]string
	// OwnRoot makes the root disk a file of its own, not one of the differences from an image: QEMU
	// can boot only such a disk.
	OwnRoot bool
	// Patience is how many times longer than usual everything may take. It is 1 if it is 0.
	Patience int
}

// Host is a machine with its disks. It is off at first.
type Host struct {
	t       testing.TB
	root    *Root
	kernel  *kernel.Kernel
	options Options
	dir     string
	console string
	boots   int
	missing map[int]bool
	loader  *Loader // nil: the kernel mounts the root file system itself
	rescue  bool
	bad     []int64 // sectors of the root disk, for QEMU

	machine *exec.Cmd // nil: off
	ended   chan struct{}
	agent   *os.File
	replies *bufio.Reader
}

const (
	// bootLimit is how long a system may take until the agent is there.
	bootLimit = 90 * time.Second
	// runLimit is how long a script may take.
	runLimit = 3 * time.Minute
	// partLimit is how many bytes of a script go over the serial line at once: fewer than 3,000 in
	// the end. The guest's terminal holds 4,096. When that is nearly full, user-mode Linux stops to
	// look for input on the line, and never begins again (line_throttle in arch/um/drivers/line.c,
	// Linux 7.3): the next script would not arrive.
	partLimit = 1536
	// offLimit is how long a system may take to end.
	offLimit = 3 * time.Minute
	// emulated is how much longer it may all take where the CPU is emulated.
	emulated = 10
)

// limit is a limit, for this machine.
func (h *Host) limit(l time.Duration) time.Duration {
	l *= time.Duration(max(1, h.options.Patience))
	if h.emulates() {
		return l * emulated
	}
	return l
}

// New makes a host. It ends with the test, which keeps the console if it fails.
func New(t testing.TB, o Options) *Host {
	t.Helper()
	if os.Getenv(Env) == "" {
		t.Skip("boots a whole Debian; run it by: make test-host")
	}
	cache, err := kernel.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	k, err := uml.Get(cache, t.Logf)
	if errors.Is(err, uml.ErrNotBuilt) && os.Getenv(Env) == IfBuilt {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	root, err := GetRoot(cache, o.Suite, slices.Concat(o.Packages, o.PackagesOf[o.Suite]), k,
		t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	if o.MemoryMiB == 0 {
		o.MemoryMiB = 512
	}
	h := &Host{t: t, root: root, kernel: k, options: o, dir: t.TempDir(), missing: map[int]bool{}}
	h.console = filepath.Join(h.dir, "console")
	if err := errors.Join(h.makePayload(), h.makeDisks()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.kill()
		if t.Failed() {
			t.Logf("the end of the console:\n%s", tail(h.console, 4000))
		}
	})
	return h
}

// Without takes a disk out of a host that is off; With puts it in again. They are counted
// from 0.
func (h *Host) Without(disk int) { h.missing[disk] = true }
func (h *Host) With(disk int)    { delete(h.missing, disk) }

func (h *Host) disk(i int) string { return filepath.Join(h.dir, fmt.Sprintf("disk%d", i)) }

func (h *Host) makeDisks() error {
	if h.options.OwnRoot {
		if err := run("cp", "--sparse=always", "--reflink=auto", h.root.Image,
			h.rootFile()); err != nil {
			return err
		}
	}
	for i, size := range h.options.Disks {
		f, err := os.Create(h.disk(i))
		if err != nil {
			return err
		}
		if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) makePayload() error {
	dir := filepath.Join(h.dir, "payload.d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	var size int64
	for name, from := range h.options.Payload {
		text, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		size += int64(len(text))
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o755); err != nil {
			return err
		}
	}
	return run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-d", dir,
		filepath.Join(h.dir, "payload"), fmt.Sprintf("%dK", 4096+size/1024*5/4))
}

// Boot turns the host on and returns when its agent answers and systemd has done
// what there was to do at the boot.
func (h *Host) Boot() {
	h.t.Helper()
	began := time.Now()
	if err := h.start(); err != nil {
		h.t.Fatal(err)
	}
	h.agentReady()
	h.Try("systemctl is-system-running --wait")
	h.boots++
	h.t.Logf("boot %d of %s: %.1f s", h.boots, h.options.Suite, time.Since(began).Seconds())
}

func (h *Host) start() error {
	if h.machine != nil {
		return errors.New("the host is on already")
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	// The descriptor does not block, so that reads can have deadlines.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "agent"), os.NewFile(uintptr(fds[1]), "agent")
	defer theirs.Close()
	console, err := os.OpenFile(h.console, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer console.Close()
	_, _ = fmt.Fprintf(console, "\n===== boot %d\n", h.boots+1)

	cmd, err := h.command()
	if err != nil {
		ours.Close()
		return err
	}
	cmd.Env = append(os.Environ(), "TMPDIR="+h.memoryDir())
	// The machine is in a group of its own, because the processes of the guest are processes here.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Stdout, cmd.Stderr = console, console
	cmd.ExtraFiles = []*os.File{theirs}
	// Standard input stays open as long as this process lives. It is empty unless something is
	// typed.
	keyboard, err := cmd.StdinPipe()
	if err != nil {
		ours.Close()
		return err
	}
	ended := make(chan struct{})
	begun := make(chan error)
	go func() {
		// The death signal is tied to the thread that started it.
		runtime.LockOSThread()
		err := cmd.Start()
		begun <- err
		if err == nil {
			_ = cmd.Wait()
			close(ended)
		}
	}()
	if err := <-begun; err != nil {
		ours.Close()
		return err
	}
	h.machine, h.ended, h.agent, h.replies = cmd, ended, ours, bufio.NewReader(ours)
	return h.typeIn(keyboard)
}

// typeIn types what is to be typed. Each text fits into the pipe.
func (h *Host) typeIn(keyboard io.Writer) error {
	_, before, _ := strings.Cut(h.Console(), fmt.Sprintf("\n===== boot %d\n", h.boots+1))
	seen := len(h.Console()) - len(before)
	limit := time.After(h.limit(bootLimit))
	for _, typed := range h.typed() {
		for {
			at := strings.Index(h.Console()[seen:], typed.Prompt)
			if at >= 0 {
				seen += at + len(typed.Prompt)
				break
			}
			select {
			case <-h.ended:
				return fmt.Errorf("the host ended before it showed %q", typed.Prompt)
			case <-limit:
				return fmt.Errorf("the console does not show %q", typed.Prompt)
			case <-time.After(100 * time.Millisecond):
			}
		}
		if _, err := io.WriteString(keyboard, typed.Text); err != nil {
			return err
		}
	}
	return nil
}

// command is the machine.
func (h *Host) command() (*exec.Cmd, error) {
	var initrd string
	if h.loader != nil && !h.rescue {
		var err error
		if initrd, err = h.load(h.loader.Initrd); err != nil {
			return nil, err
		}
	}
	if h.emulates() {
		return h.qemu(initrd)
	}
	return exec.Command(h.kernel.Image, h.arguments(initrd)...), nil
}

// arguments are those of user-mode Linux.
func (h *Host) arguments(initrd string) []string {
	keyboard := "null"
	if h.typed() != nil {
		keyboard = "fd:0"
	}
	args := []string{
		fmt.Sprintf("mem=%dM", h.options.MemoryMiB), "ncpus=1", "seccomp=on", "noreboot",
		"con=null", "con0=" + keyboard + ",fd:1", "console=tty0", "ssl=null", "ssl0=fd:3,fd:3",
		"uml_dir=" + h.dir, "umid=host", "panic=-1", "oops=panic",
		"ubd1r=" + filepath.Join(h.dir, "payload"),
		"system.agent=ttyS0", "system.payload=/dev/ubdb", "loglevel=5",
	}
	args = append(args, h.bootArguments(initrd)...)
	for i := range h.options.Disks {
		if h.missing[i] {
			continue
		}
		args = append(args, fmt.Sprintf("ubd%d=%s", i+2, h.disk(i)))
	}
	return args
}

// memoryDir is where the file that is the guest's memory lies.
func (h *Host) memoryDir() string {
	const shm = "/dev/shm"
	var st unix.Statfs_t
	if unix.Statfs(shm, &st) == nil && st.Type == unix.TMPFS_MAGIC &&
		st.Flags&unix.ST_NOEXEC == 0 &&
		st.Bavail*uint64(st.Bsize) > uint64(h.options.MemoryMiB)<<20 {
		return shm
	}
	return h.dir
}

// agentReady waits for the agent's first word.
func (h *Host) agentReady() {
	h.t.Helper()
	_ = h.agent.SetReadDeadline(time.Now().Add(h.limit(bootLimit)))
	line, err := h.replies.ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "ready" {
		h.kill()
		h.t.Fatalf("the host did not boot: the agent says %q (%v)", line, err)
	}
}

// Run runs a shell script and returns what it prints, without blanks around it. The
// test fails unless it exits with 0.
func (h *Host) Run(script string) string {
	h.t.Helper()
	out, code := h.Try("set -e\n" + script)
	if code != 0 {
		h.t.Fatalf("exit code %d of\n%s\nit printed:\n%s", code, script, out)
	}
	return out
}

// Try runs a shell script and returns what it prints and its exit code.
func (h *Host) Try(script string) (out string, code int) {
	h.t.Helper()
	out, code, err := h.try(script)
	if err != nil {
		h.kill()
		h.t.Fatalf("no answer (%v) to\n%s", err, script)
	}
	return out, code
}

// try runs a script. A long one is put into a file by scripts that are short.
func (h *Host) try(script string) (out string, code int, err error) {
	const file = "/run/agent.parts"
	if len(script) <= partLimit {
		return h.send(script)
	}
	put := ">"
	for part := range slices.Chunk([]byte(script), partLimit) {
		out, code, err := h.send("echo " + base64.StdEncoding.EncodeToString(part) +
			" | base64 -d " + put + file)
		if err != nil || code != 0 {
			return out, code, err
		}
		put = ">>"
	}
	return h.send("exec sh " + file)
}

// send has the agent run a script of at most partLimit bytes, or the base64 of as many.
func (h *Host) send(script string) (out string, code int, err error) {
	if h.machine == nil {
		return "", 0, errors.New("the host is off")
	}
	_ = h.agent.SetDeadline(time.Now().Add(h.limit(runLimit)))
	encoded := base64.StdEncoding.EncodeToString([]byte(script))
	if _, err := fmt.Fprintln(h.agent, encoded); err != nil {
		return "", 0, err
	}
	line, err := h.replies.ReadString('\n')
	if err != nil {
		return "", 0, err
	}
	number, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	text, err := base64.StdEncoding.DecodeString(rest)
	if err != nil {
		return "", 0, err
	}
	code, err = strconv.Atoi(number)
	return strings.TrimSpace(string(text)), code, err
}

// PowerCut ends the machine at once. What it wrote to its disks is there, what the
// guest still had in its memory is not.
func (h *Host) PowerCut() {
	h.t.Helper()
	if h.machine == nil {
		h.t.Fatal("the host is off")
	}
	h.kill()
}

// PowerOff has systemd turn the host off and waits for that.
func (h *Host) PowerOff() { h.t.Helper(); h.end("systemctl poweroff") }

// Reboot has systemd reboot the host, and returns as Boot does.
func (h *Host) Reboot() { h.t.Helper(); h.end("systemctl reboot"); h.Boot() }

func (h *Host) end(script string) {
	h.t.Helper()
	began := time.Now()
	// The host can be off before the agent has answered.
	if out, code, err := h.try(script); err == nil && code != 0 {
		h.t.Fatalf("exit code %d of %s: %s", code, script, out)
	}
	select {
	case <-h.ended:
		h.t.Logf("%s: %.1f s", script, time.Since(began).Seconds())
	case <-time.After(h.limit(offLimit)):
		h.kill()
		h.t.Fatalf("%s: the host is still on after %v", script, h.limit(offLimit))
	}
	h.kill()
}

// Kexec has systemd start the kernel that was loaded, and returns as Boot does. The machine is not
// reset: a reset would end QEMU, and the test.
func (h *Host) Kexec() {
	h.t.Helper()
	began := time.Now()
	const script = "systemctl kexec"
	_ = h.agent.SetDeadline(began.Add(h.limit(offLimit + bootLimit)))
	_, err := fmt.Fprintln(h.agent, base64.StdEncoding.EncodeToString([]byte(script)))
	// The old system answers, if it comes to that, and then the new one is ready.
	for line := ""; strings.TrimSpace(line) != "ready"; {
		if err == nil {
			line, err = h.replies.ReadString('\n')
		}
		if code, _, answer := strings.Cut(line, " "); err == nil && answer && code != "0" {
			err = fmt.Errorf("exit code %s", code)
		}
		if err != nil {
			h.kill()
			h.t.Fatalf("%s: no new kernel: %v", script, err)
		}
	}
	h.Try("systemctl is-system-running --wait")
	h.boots++
	h.t.Logf("%s, to boot %d of %s: %.1f s", script, h.boots, h.options.Suite,
		time.Since(began).Seconds())
}

// kill ends the machine, if it is on, and whatever is left of it.
func (h *Host) kill() {
	if h.machine == nil {
		return
	}
	_ = syscall.Kill(-h.machine.Process.Pid, syscall.SIGKILL)
	<-h.ended
	h.agent.Close()
	h.machine, h.agent, h.replies = nil, nil, nil
}

// Console returns what the console has shown since the host was made.
func (h *Host) Console() string {
	text, err := os.ReadFile(h.console)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(text)
}

// Eventually waits until a script exits with 0, at most for so long, and longer where the CPU is
// emulated.
func (h *Host) Eventually(limit time.Duration, script string) string {
	h.t.Helper()
	out, code := h.Within(limit, script)
	if code != 0 {
		h.t.Fatalf("after %v still exit code %d of\n%s\nit printed:\n%s", h.limit(limit), code,
			script, out)
	}
	return out
}

// Within is Eventually for a test that wants to say itself what is wrong.
func (h *Host) Within(limit time.Duration, script string) (out string, code int) {
	h.t.Helper()
	ended := time.After(h.limit(limit))
	for {
		if out, code = h.Try(script); code == 0 {
			return out, code
		}
		select {
		case <-ended:
			return out, code
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// tail returns the last n bytes of a file.
func tail(path string, n int64) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > n {
		_, _ = f.Seek(-n, io.SeekEnd)
	}
	text, _ := io.ReadAll(f)
	return string(bytes.ToValidUTF8(text, []byte("?")))
}
