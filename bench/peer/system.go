package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// ErrUnavailable is returned for a device that this machine cannot have: a
// program or a feature of the kernel is missing. Others can be measured.
var ErrUnavailable = errors.New("not available here")

// limit is how long a program may take until it counts as hung. Under emulation a
// start with a million remaps takes a minute and a half on a busy machine.
const limit = 10 * time.Minute

// run runs a program and returns what it printed. Output goes to files: a
// server that it leaves behind would keep a pipe open.
func run(ctx context.Context, name string, args ...string) (string, error) {
	return runInput(ctx, "", name, args...)
}

func runInput(ctx context.Context, stdin, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	stdout, err1 := os.Create(filepath.Join(dir, "out"))
	stderr, err2 := os.Create(filepath.Join(dir, "err"))
	if err := errors.Join(err1, err2); err != nil {
		return "", err
	}
	defer func() { _, _ = stdout.Close(), stderr.Close() }()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err = cmd.Run()
	out, err1 := os.ReadFile(stdout.Name())
	msg, err2 := os.ReadFile(stderr.Name())
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err,
			strings.TrimSpace(string(out)+string(msg)))
	}
	return string(out), errors.Join(err, err1, err2)
}

func modprobe(ctx context.Context, name string, params ...string) error {
	_, err := run(ctx, "modprobe", append([]string{name}, params...)...)
	return err
}

// waitBlock waits until a block device is there.
func waitBlock(ctx context.Context, paths ...string) (string, error) {
	for deadline := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		for _, p := range paths {
			if st, err := os.Stat(p); err == nil &&
				st.Mode()&(os.ModeDevice|os.ModeCharDevice) == os.ModeDevice {
				return p, nil
			}
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return "", fmt.Errorf("no block device %s: %w", strings.Join(paths, ", "),
				os.ErrNotExist)
		}
	}
}

// retry calls f until it succeeds: udev, which probes new devices, may have one open
// for a moment.
func retry(f func() error) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := f()
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
