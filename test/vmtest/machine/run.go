package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/test/vmtest/proto"
)

// Run boots the guest and waits for its result, at most until ctx ends.
func Run(ctx context.Context, maker Maker, g *Guest) (proto.Frame, error) {
	command, err := maker.Command(g)
	if err != nil {
		return proto.Frame{}, err
	}
	// The machine must not outlive this process, however that ends; the death
	// signal is tied to the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, command.Path, command.Args...)
	cmd.Env = append(os.Environ(), command.Env...)
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
	ours, err := start(cmd, g.Console)
	if err != nil {
		return proto.Frame{}, err
	}
	defer closeAll(ours)

	var output sync.WaitGroup
	output.Go(func() { _, _ = io.Copy(g.Stdout, ours[0]) })
	output.Go(func() { _, _ = io.Copy(g.Stderr, ours[1]) })
	frame, resultErr := proto.ReadResult(ours[2], g.OnFile)
	// Either the guest powers off by itself now, or the machine has ended already;
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
		return proto.Frame{}, fmt.Errorf("%w (%s: %v: %s)", resultErr,
			filepath.Base(command.Path), waitErr, text)
	}
	return proto.Frame{}, resultErr
}

// start starts the machine and returns our ends of its ports.
func start(cmd *exec.Cmd, console string) ([]*os.File, error) {
	ours, theirs, err := socketPairs(len(Ports))
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(console, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		closeAll(theirs)
		closeAll(ours)
		return nil, err
	}
	cmd.ExtraFiles = append(theirs, log)
	err = cmd.Start()
	closeAll(cmd.ExtraFiles)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("%w: it did not end in time, nor begin", proto.ErrNoResult)
	case err != nil:
		err = fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	default:
		return ours, nil
	}
	closeAll(ours)
	return nil, err
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
