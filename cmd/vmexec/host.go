package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"ublkremap/test/vmtest/initrd"
	"ublkremap/test/vmtest/kernel"
	"ublkremap/test/vmtest/machine"
	"ublkremap/test/vmtest/proto"
	"ublkremap/test/vmtest/qemu"
	"ublkremap/test/vmtest/uml"
)

// guestBoot is how long a guest may take besides the time of its program.
const guestBoot = 90 * time.Second

// host is what the guests of one command line share.
type host struct {
	o        *options
	cache    string
	kernel   *kernel.Kernel
	archives []string // base and tools
	accel    string
	// boot is how long a guest may take besides the time of its program.
	boot           time.Duration
	stdout, stderr io.Writer
}

func (h *host) logf(format string, args ...any) {
	_, _ = fmt.Fprintf(h.stderr, "vmexec: "+format+"\n", args...)
}

func (h *host) debugf(format string, args ...any) {
	if h.o.verbose {
		h.logf(format, args...)
	}
}

// newHost fetches the kernel, builds the archives, and finds out about KVM.
func newHost(ctx context.Context, o *options, stdout, stderr io.Writer) (*host, error) {
	h := &host{o: o, boot: guestBoot, stdout: stdout, stderr: stderr}
	var err error
	if h.cache, err = kernel.CacheDir(); err != nil {
		return nil, err
	}
	if h.kernel, err = h.getKernel(); err != nil {
		return nil, err
	}
	base, err := initrd.Base(filepath.Join(h.cache, "initrd"), h.kernel, o.modules)
	if err != nil {
		return nil, err
	}
	h.archives = []string{base}
	if len(o.tools) > 0 {
		tools, err := initrd.Tools(filepath.Join(h.cache, "initrd"), o.tools)
		if err != nil {
			return nil, err
		}
		h.archives = append(h.archives, tools)
	}
	if h.accel = o.accel; h.accel == "auto" && !h.kernel.UserMode {
		h.accel, err = qemu.Accelerator(ctx, h.cache, h.trial, h.logf)
	}
	return h, err
}

func (h *host) getKernel() (*kernel.Kernel, error) {
	switch {
	case h.o.kernel != uml.Name:
		return kernel.Get(h.cache, h.o.kernel, h.o.update, h.logf)
	case h.o.fetch:
		return uml.Build(h.cache, h.o.update, h.logf)
	default:
		// A test must not compile a kernel unless somebody asked for that.
		return uml.Get(h.cache, h.logf)
	}
}

// maker makes the machines for the kernel.
func (h *host) maker(accel string) machine.Maker {
	if h.kernel.UserMode {
		return &uml.Machine{Kernel: h.kernel}
	}
	return &qemu.Machine{Kernel: h.kernel, Accel: accel, Parallel: h.o.parallel}
}

// trial boots a guest under KVM that does nothing.
func (h *host) trial(ctx context.Context) error {
	job := &proto.Job{Args: []string{"/init", "-trial"}, Env: []string{"PATH=/bin"}, Dir: "/"}
	g := &guestRun{h: h, job: job, accel: qemu.KVM, stdout: io.Discard, stderr: io.Discard,
		archives: h.archives[:1]}
	frame, err := g.run(ctx)
	g.removeConsole()
	if err == nil && frame.Code != trialCode {
		err = fmt.Errorf("exit code %d %s", frame.Code, frame.Error)
	}
	return err
}

// runProgram runs the command line's program, and returns the exit code. If the first guest sends
// no result, it runs the program a second time.
func (h *host) runProgram(ctx context.Context) (int, error) {
	job, fill, err := h.o.job()
	if err != nil {
		return proto.ExitSetup, err
	}
	accel := h.accel
	for attempt := 1; ; attempt++ {
		watch := &failureWatch{w: h.stdout}
		g := &guestRun{h: h, job: job, fill: fill, accel: accel, stdout: watch, stderr: h.stderr,
			archives: h.archives}
		start := time.Now()
		guestCtx, cancel := context.WithTimeout(ctx, time.Duration(job.TimeoutSeconds)*time.Second+
			h.boot)
		frame, err := g.run(guestCtx)
		cancel()
		h.debugf("guest with %s (%s) ended after %v", h.kernel.Release, accel,
			time.Since(start).Round(time.Millisecond))
		if err == nil {
			return g.finish(frame)
		}
		if ctx.Err() != nil {
			g.removeConsole()
			return proto.ExitSetup, errors.New("interrupted")
		}
		if !errors.Is(err, proto.ErrNoResult) {
			g.removeConsole()
			return proto.ExitSetup, err
		}
		g.tailConsole(err)
		if attempt == 2 || h.o.noRetry || watch.failed {
			return proto.ExitNoResult, nil
		}
		h.logf("starting one more guest")
		accel = qemu.TCG
	}
}

// guestRun is one boot of a guest.
type guestRun struct {
	h              *host
	job            *proto.Job
	fill           func(*initrd.Archive) error // adds the program and its files
	accel          string
	stdout, stderr io.Writer
	archives       []string
	console        string
}

func (g *guestRun) run(ctx context.Context) (proto.Frame, error) {
	runs := filepath.Join(g.h.cache, "run")
	if err := os.MkdirAll(runs, 0o755); err != nil {
		return proto.Frame{}, err
	}
	dir, err := os.MkdirTemp(runs, "guest-")
	if err != nil {
		return proto.Frame{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if g.console, err = newConsole(g.h.cache); err != nil {
		return proto.Frame{}, err
	}
	m := &machine.Guest{
		Initrd: filepath.Join(dir, "initrd"), Dir: dir,
		MemoryMiB: g.h.o.memoryMiB, CPUs: g.h.o.cpus, Append: g.h.o.append,
		Console: g.console, Stdout: g.stdout, Stderr: g.stderr, OnFile: g.keepFile,
	}
	if err := g.writeInitrd(dir, m.Initrd); err != nil {
		return proto.Frame{}, err
	}
	for i, d := range g.h.o.disks {
		path := filepath.Join(dir, fmt.Sprintf("disk%d", i))
		if err := sparse(path, d.bytes); err != nil {
			return proto.Frame{}, err
		}
		m.Disks = append(m.Disks, machine.Disk{Path: path, BlockSize: d.blockSize,
			Kind: d.kind})
	}
	return machine.Run(ctx, g.h.maker(g.accel), m)
}

func sparse(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// writeInitrd joins the shared archives and that of the job.
func (g *guestRun) writeInitrd(dir, path string) error {
	own := filepath.Join(dir, "job.cpio")
	f, err := os.Create(own)
	if err != nil {
		return err
	}
	a := initrd.NewArchive(f)
	err = g.fillArchive(a)
	if err == nil {
		err = a.Close()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	err = initrd.Concat(out, append(append([]string{}, g.archives...), own)...)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return err
}

func (g *guestRun) fillArchive(a *initrd.Archive) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := a.Program(self, "/init"); err != nil {
		return err
	}
	if err := a.Symlink("/init", "/sbin/modprobe"); err != nil {
		return err
	}
	job, err := json.Marshal(g.job)
	if err != nil {
		return err
	}
	if err := a.Bytes(proto.JobPath, 0o644, job); err != nil {
		return err
	}
	if g.fill == nil {
		return nil
	}
	return g.fill(a)
}

// keepFile writes a file that the guest sent, if it was asked for. A guest must not choose paths on
// the host.
func (g *guestRun) keepFile(path string, contents io.Reader) error {
	for _, c := range g.h.o.collect {
		if c.from != path {
			continue
		}
		f, err := os.Create(c.to)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, contents)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		return err
	}
	return nil
}

// finish turns the guest's result into an exit code.
func (g *guestRun) finish(frame proto.Frame) (int, error) {
	warned := frame.Tainted&proto.TaintWarn != 0
	if warned {
		g.h.logf("the kernel printed a warning")
	}
	if frame.Code != 0 || warned || g.h.o.keep {
		g.h.logf("kernel %s, exit code %d, console: %s", frame.Kernel, frame.Code, g.console)
	} else {
		g.removeConsole()
	}
	if frame.Error != "" {
		return proto.ExitGuestSetup, errors.New(frame.Error)
	}
	return frame.Code, nil
}

// failureWatch passes a program's output on and notices when it reports a failure. A failed test is
// never run again, even if its guest dies afterwards.
type failureWatch struct {
	w      io.Writer
	line   []byte // the beginning of the line that is being written
	failed bool
}

// failureMarks begin the lines with which Go programs report failures.
var failureMarks = [][]byte{[]byte("--- FAIL"), []byte("panic: "), []byte("fatal error: "),
	[]byte("FAIL")}

// watched is how much of a line is examined.
const watched = 64

func (f *failureWatch) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0 && !f.failed; {
		line, after, complete := bytes.Cut(rest, []byte("\n"))
		f.line = append(f.line, line[:min(len(line), max(0, watched-len(f.line)))]...)
		for _, mark := range failureMarks {
			f.failed = f.failed || bytes.HasPrefix(bytes.TrimLeft(f.line, " \t\x16"), mark)
		}
		if complete {
			f.line = f.line[:0]
		}
		rest = after
	}
	return f.w.Write(p)
}
