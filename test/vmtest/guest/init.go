package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/test/vmtest/kernel"
	"ublkremap/test/vmtest/proto"
)

// Init is process 1 of a guest. It does not return.
func Init() {
	frame := proto.Frame{Kind: proto.KindExit, Code: proto.ExitGuestSetup}
	err := mountAll()
	if err != nil {
		// Without /dev only the console can show the error.
		fmt.Println("vmexec:", err)
		powerOff()
	}
	ports, err := openPorts()
	if err != nil {
		fmt.Println("vmexec:", err)
		powerOff()
	}
	var job proto.Job
	if err = readJob(&job); err == nil {
		err = prepare(&job)
	}
	if err == nil {
		frame.Code, err = runJob(&job, ports)
	}
	if err != nil {
		frame.Code, frame.Error = proto.ExitGuestSetup, err.Error()
	}
	for _, path := range job.Collect {
		if err := sendFile(ports[proto.PortResult], path); err != nil &&
			!errors.Is(err, os.ErrNotExist) {
			fmt.Println("vmexec: collect:", err)
		}
	}
	frame.Kernel = filepath.Base(must(moduleDir()))
	frame.Tainted, _ = strconv.ParseUint(
		strings.TrimSpace(string(must(os.ReadFile("/proc/sys/kernel/tainted")))), 10, 64)
	if err := proto.WriteFrame(ports[proto.PortResult], frame); err != nil {
		fmt.Println("vmexec: result:", err)
	}
	drain(ports)
	powerOff()
}

// must drops an error that leaves a zero value, which is all that a report needs.
func must[T any](v T, _ error) T { return v }

// powerOff ends the guest. No sync: its disks are thrown away, and a device
// whose server is dead would block it for ever.
func powerOff() {
	for {
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
		time.Sleep(time.Second)
	}
}

func readJob(job *proto.Job) error {
	raw, err := os.ReadFile(proto.JobPath)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, job); err != nil {
		return fmt.Errorf("%s: %w", proto.JobPath, err)
	}
	if len(job.Args) == 0 {
		return fmt.Errorf("%s: no program", proto.JobPath)
	}
	return nil
}

func prepare(job *proto.Job) error {
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("interface lo: %w", err)
	}
	for _, d := range append(job.MakeDirs, job.Dir) {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for _, m := range job.Modules {
		// The kernels of the two suites differ in what is a module; one
		// that is neither a file nor built in is an error only where it is used.
		if err := Load(m); err != nil && !errors.Is(err, kernel.ErrNoModule) {
			return err
		}
		if m == "configfs" {
			_ = unix.Mount("configfs", "/sys/kernel/config", "configfs", 0, "")
		}
	}
	return nil
}

// runJob runs the program and returns its exit code as a shell would.
func runJob(job *proto.Job, ports map[string]*os.File) (int, error) {
	for _, kv := range job.Env {
		k, v, _ := strings.Cut(kv, "=")
		if err := os.Setenv(k, v); err != nil {
			return 0, err
		}
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(job.Args[0], job.Args[1:]...)
	cmd.Dir, cmd.Env = job.Dir, job.Env
	cmd.Stdout, cmd.Stderr = outW, errW
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	_, _ = outW.Close(), errW.Close()
	exited := make(chan struct{})
	var copying sync.WaitGroup
	copying.Go(func() { pump(ports[proto.PortOut], outR, exited) })
	copying.Go(func() { pump(ports[proto.PortErr], errR, exited) })
	expired, stuck := watch(job, cmd.Process, ports[proto.PortErr])
	reaped := make(chan syscall.WaitStatus, 1)
	go func() { reaped <- reap(cmd.Process.Pid) }()
	var status syscall.WaitStatus
	select {
	case status = <-reaped:
	case <-stuck:
	}
	close(exited)
	_, _ = outR.SetReadDeadline(time.Now()), errR.SetReadDeadline(time.Now())
	copying.Wait()
	if expired() {
		return proto.ExitTimeout, nil
	}
	if status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}

// pump copies a pipe to a port until the pipe's end or, after the program has
// exited, until nothing has come for a moment: daemons that it left behind
// may hold the pipe open for ever.
func pump(to io.Writer, from *os.File, exited <-chan struct{}) {
	buf := make([]byte, 16<<10)
	var end time.Time // of the draining; zero while the program runs
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				return
			}
		}
		select {
		case <-exited:
			now := time.Now()
			if end.IsZero() {
				end = now.Add(10 * time.Second)
			} else if err != nil || now.After(end) {
				return
			}
			_ = from.SetReadDeadline(now.Add(100 * time.Millisecond))
		default:
			if err != nil {
				return
			}
		}
	}
}

// watch ends the program when its time is over. The console gets the kernel's list of blocked tasks
// first, which shows what hangs in a driver. Then the program gets SIGQUIT, at which a Go program
// prints its goroutines, and SIGKILL. A task that is stuck in the kernel survives even that: stuck
// is closed some time later, or when the program sends SIGUSR1 because it knows that it cannot end.
// expired reports whether either happened.
func watch(job *proto.Job, p *os.Process, report io.Writer) (expired func() bool,
	stuck <-chan struct{}) {
	var fired atomic.Bool
	isStuck := make(chan struct{})
	giveUp := sync.OnceFunc(func() {
		fired.Store(true)
		_, _ = fmt.Fprintln(report, "vmexec: the program cannot end; ending the guest")
		close(isStuck)
	})
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGUSR1)
	go func() {
		<-told
		giveUp()
	}()
	if job.TimeoutSeconds <= 0 {
		return fired.Load, isStuck
	}
	limit := time.Duration(job.TimeoutSeconds) * time.Second
	timer := time.AfterFunc(limit, func() {
		fired.Store(true)
		_, _ = fmt.Fprintf(report, "vmexec: the program has run for %v; ending it (blocked tasks "+
			"are in the console log)\n", limit)
		_ = os.WriteFile("/proc/sys/kernel/printk", []byte("8"), 0)
		_ = os.WriteFile("/proc/sysrq-trigger", []byte("w"), 0)
		_ = p.Signal(syscall.SIGQUIT)
		time.Sleep(killAfter)
		_ = p.Kill()
		time.Sleep(killAfter)
		giveUp()
	})
	return func() bool { timer.Stop(); return fired.Load() }, isStuck
}

// killAfter is how long the program has to end after each signal.
const killAfter = 5 * time.Second

// reap waits for the program and, being process 1, for every orphan that ends meanwhile.
func reap(pid int) syscall.WaitStatus {
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(-1, &status, 0, nil)
		if err == nil && got == pid && !status.Stopped() && !status.Continued() {
			return status
		}
		if errors.Is(err, syscall.ECHILD) {
			return syscall.WaitStatus(0xff << 8)
		}
	}
}

func sendFile(w io.Writer, path string) error {
	contents, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := proto.WriteFrame(w, proto.Frame{Kind: proto.KindFile, Path: path,
		Size: int64(len(contents))}); err != nil {
		return err
	}
	_, err = w.Write(contents)
	return err
}
