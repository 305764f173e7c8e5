package vmtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// LoopOptions are the choices of a loop device; the zero value is a new
// sparse file, 512-byte blocks, direct I/O.
type LoopOptions struct {
	// File is an existing backing file. Empty: a sparse one is made in a
	// directory of the test's.
	File string
	// BlockSize is the logical block size, 512 or 4096; 0 is 512.
	BlockSize uint32
	// Buffered goes through the page cache of the backing file. Errors
	// below then come back as EIO or not at all.
	Buffered bool
	// ReadOnly makes the device read-only.
	ReadOnly bool
	// Partitions lets the kernel look for partitions on it.
	Partitions bool
}

// NewLoop attaches a loop device and returns its path. size is in bytes and
// ignored for an existing file.
func NewLoop(t testing.TB, size int64, o LoopOptions) string {
	t.Helper()
	NeedRoot(t)
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		_ = modprobe("loop")
	}
	file := o.File
	if file == "" {
		file = filepath.Join(t.TempDir(), "loop.img")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(file, size); err != nil {
			t.Fatal(err)
		}
	}
	path, err := attach(file, o)
	if err != nil {
		lacking(t, "loop device: %v", err)
	}
	t.Cleanup(func() {
		if err := detach(path); err != nil {
			t.Errorf("detach %s: %v", path, err)
		}
	})
	return path
}

func attach(file string, o LoopOptions) (string, error) {
	mode := os.O_RDWR
	cfg := unix.LoopConfig{Size: o.BlockSize}
	if cfg.Size == 0 {
		cfg.Size = 512
	}
	if !o.Buffered {
		cfg.Info.Flags |= unix.LO_FLAGS_DIRECT_IO
	}
	if o.ReadOnly {
		mode = os.O_RDONLY
		cfg.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	if o.Partitions {
		cfg.Info.Flags |= unix.LO_FLAGS_PARTSCAN
	}
	backing, err := os.OpenFile(file, mode, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = backing.Close() }()
	cfg.Fd = uint32(backing.Fd())
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = ctl.Close() }()
	for {
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", fmt.Errorf("LOOP_CTL_GET_FREE: %w", err)
		}
		path := fmt.Sprintf("/dev/loop%d", n)
		err = configure(path, &cfg)
		if errors.Is(err, unix.EBUSY) {
			continue // another test was quicker
		}
		return path, err
	}
}

func configure(path string, cfg *unix.LoopConfig) error {
	dev, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = dev.Close() }()
	if err := unix.IoctlLoopConfigure(int(dev.Fd()), cfg); err != nil {
		return fmt.Errorf("LOOP_CONFIGURE %s: %w", path, err)
	}
	// The driver falls back to buffered I/O without a word.
	got, err := unix.IoctlLoopGetStatus64(int(dev.Fd()))
	if err == nil && got.Flags&unix.LO_FLAGS_DIRECT_IO != cfg.Info.Flags&unix.LO_FLAGS_DIRECT_IO {
		err = fmt.Errorf("%s: no direct I/O on its backing file: %w", path, unix.EOPNOTSUPP)
	}
	if err != nil {
		_ = unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0)
	}
	return err
}

// DetachLoop detaches a loop device before the test ends.
func DetachLoop(t testing.TB, path string) {
	t.Helper()
	if err := detach(path); err != nil {
		t.Errorf("detach %s: %v", path, err)
	}
}

// detach waits for processes that still have the device open (udev's probing, a
// server that is ending): while it is open the driver only marks it.
func detach(path string) error {
	return retry(10*time.Second, func() error {
		dev, err := os.OpenFile(path, os.O_RDONLY|unix.O_EXCL, 0)
		if err != nil {
			return err
		}
		defer func() { _ = dev.Close() }()
		err = unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0)
		if errors.Is(err, unix.ENXIO) {
			return nil // a test that detached it itself
		}
		return err
	})
}

// retry calls f until it succeeds or the limit has passed.
func retry(limit time.Duration, f func() error) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		err := f()
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// Sectors is the size of a block device in sectors of 512 bytes.
func Sectors(t testing.TB, dev string) int64 {
	t.Helper()
	f, err := os.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	// A seek to the end of a block device answers its size.
	n, err := f.Seek(0, 2)
	if err != nil {
		t.Fatal(err)
	}
	return n / 512
}
