package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/internal/vmtest/kernel"
	"ublkremap/internal/vmtest/proto"
)

// Binary is the emulator that is run.
const Binary = "qemu-system-x86_64"

// Accelerators.
const (
	TCG = "tcg"
	KVM = "kvm"
)

// ErrNoQEMU is returned when the host has no QEMU.
var ErrNoQEMU = errors.New("no " + Binary + " (package qemu-system-x86; scripts/deps installs it)")

// Disk is a scratch disk of a guest, /dev/vda for the first.
type Disk struct {
	// Path of a raw image on the host.
	Path string
	// BlockSize is the logical and physical block size, 512 or 4096.
	BlockSize int
}

// Machine is one guest.
type Machine struct {
	Kernel *kernel.Kernel
	// Initrd is the path of the initramfs.
	Initrd string
	// Accel is TCG or KVM.
	Accel string
	// MemoryMiB and CPUs are the guest's size.
	MemoryMiB int
	CPUs      int
	Disks     []Disk
	// Append is added to the kernel's command line.
	Append string
	// Console is the path of the file that gets the kernel's console.
	Console string
	// Stdout and Stderr get what the program prints.
	Stdout, Stderr io.Writer
	// OnFile gets the files that the guest sends back.
	OnFile func(path string, contents io.Reader) error
}

// cmdline is the kernel's command line. An oops ends the guest, because what
// runs on after it proves nothing; mitigations, security modules and self-tests
// cost time and guard nobody here.
const cmdline = "console=ttyS0 loglevel=5 oops=panic panic=-1 mitigations=off nokaslr no5lvl " +
	"random.trust_cpu=on audit=0 lsm= cryptomgr.notests=1 init_on_alloc=0 rdinit=/init"

func (m *Machine) args() []string {
	accel, cpu := "tcg,thread=single", "max,-cx16"
	if m.Accel == KVM {
		accel, cpu = "kvm", "host"
	}
	args := []string{
		"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		"-accel", accel, "-cpu", cpu,
		"-smp", fmt.Sprint(m.CPUs), "-m", fmt.Sprint(m.MemoryMiB),
		"-kernel", m.Kernel.Image, "-initrd", m.Initrd,
		"-append", strings.TrimSpace(cmdline + " " + m.Append),
		"-chardev", "file,id=console,path=" + escape(m.Console), "-serial", "chardev:console",
		"-device", "virtio-serial-pci,max_ports=4",
	}
	for i, port := range []string{proto.PortOut, proto.PortErr, proto.PortResult} {
		args = append(args,
			"-chardev", fmt.Sprintf("socket,id=p%d,fd=%d", i, 3+i),
			"-device", fmt.Sprintf("virtserialport,nr=%d,chardev=p%d,name=%s", i+1, i, port))
	}
	for i, d := range m.Disks {
		args = append(args,
			"-drive", fmt.Sprintf("if=none,id=d%d,format=raw,cache=unsafe,discard=unmap,file=%s", i, escape(d.Path)),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=d%d,logical_block_size=%d,physical_block_size=%d", i, d.BlockSize, d.BlockSize))
	}
	return args
}

// escape doubles commas, which separate QEMU's options.
func escape(path string) string { return strings.ReplaceAll(path, ",", ",,") }

// Run boots the guest and waits for its result, at most until ctx ends.
func (m *Machine) Run(ctx context.Context) (proto.Frame, error) {
	path, err := exec.LookPath(Binary)
	if err != nil {
		return proto.Frame{}, ErrNoQEMU
	}
	// QEMU must not outlive this process, however that ends; the death
	// signal is tied to the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, m.args()...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	var complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &complaints, &complaints
	// An empty pipe as stdin: with /dev/null QEMU has been seen to spin.
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return proto.Frame{}, err
	}
	defer func() { _ = stdin.Close() }()

	ours, theirs, err := socketPairs(3)
	if err != nil {
		return proto.Frame{}, err
	}
	defer closeAll(ours)
	cmd.ExtraFiles = theirs
	err = cmd.Start()
	closeAll(theirs)
	if errors.Is(err, context.DeadlineExceeded) {
		return proto.Frame{}, fmt.Errorf("%w: it did not end in time, nor begin", proto.ErrNoResult)
	}
	if err != nil {
		return proto.Frame{}, fmt.Errorf("start %s: %w", Binary, err)
	}

	var output sync.WaitGroup
	output.Go(func() { _, _ = io.Copy(m.Stdout, ours[0]) })
	output.Go(func() { _, _ = io.Copy(m.Stderr, ours[1]) })
	frame, resultErr := proto.ReadResult(ours[2], m.OnFile)
	// Either the guest powers off by itself now, or QEMU has ended already;
	// nothing is lost if it does not.
	timedOut := errors.Is(ctx.Err(), context.DeadlineExceeded)
	stop := time.AfterFunc(3*time.Second, cancel)
	defer stop.Stop()
	waitErr := cmd.Wait()
	output.Wait()
	if resultErr == nil {
		return frame, nil
	}
	if timedOut {
		return proto.Frame{}, fmt.Errorf("%w: it did not end in time", proto.ErrNoResult)
	}
	if text := strings.TrimSpace(complaints.String()); text != "" {
		return proto.Frame{}, fmt.Errorf("%w (%s: %v: %s)", resultErr, Binary, waitErr, text)
	}
	return proto.Frame{}, resultErr
}

// socketPairs returns n pairs of connected stream sockets.
func socketPairs(n int) (ours, theirs []*os.File, err error) {
	for range n {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			closeAll(ours)
			closeAll(theirs)
			return nil, nil, fmt.Errorf("socketpair: %w", err)
		}
		ours = append(ours, os.NewFile(uintptr(fds[0]), "guest"))
		theirs = append(theirs, os.NewFile(uintptr(fds[1]), "guest"))
	}
	return ours, theirs, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
