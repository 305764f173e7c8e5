package blockdev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func tempDisk(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// loopDevice puts a loop device over a file, or skips.
func loopDevice(t *testing.T, path string, args ...string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for a loop device")
	}
	out, err := exec.Command("losetup", append(append([]string{"--find", "--show"}, args...),
		path)...).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device here: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", dev).CombinedOutput(); err != nil {
			t.Errorf("losetup -d %s: %v: %s", dev, err, out)
		}
	})
	return dev
}

func open1(t *testing.T, path string, o Options) *Device {
	t.Helper()
	d, err := Open(context.Background(), path, o)
	if errors.Is(err, ErrNoDirectIO) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestFileIsLocked(t *testing.T) {
	path := tempDisk(t, 1<<20)
	d := open1(t, path, Options{})
	if d.IsBlock() || d.Size() != 1<<20 || d.Rdev() != 0 {
		t.Errorf("%+v", d)
	}
	if _, err := Open(context.Background(), path, Options{}); !errors.Is(err, ErrBusy) ||
		!strings.Contains(err.Error(), path) {
		t.Errorf("second open: %v", err)
	}
	shared, err := Open(context.Background(), path, Options{ReadOnly: true, Shared: true})
	if err != nil {
		t.Fatal(err)
	}
	shared.Close()
	// The wait ends when the holder closes the device.
	closed := make(chan error, 1)
	go func() {
		time.Sleep(3 * retryEvery)
		closed <- d.Close()
	}()
	again, err := Open(context.Background(), path, Options{Wait: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestReadWrite(t *testing.T) {
	d := open1(t, tempDisk(t, 1<<20), Options{})
	buf, err := Aligned(8192)
	if err != nil {
		t.Fatal(err)
	}
	defer Free(buf)
	for i := range buf {
		buf[i] = byte(i * 7 >> 3)
	}
	if n, err := d.WriteAt(buf, 4096); n != 8192 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := d.WriteAt(buf[:4096], 16384); n != 4096 || err != nil {
		t.Fatal(n, err)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	odd := make([]byte, 5001)
	if n, err := d.ReadAt(odd, 4099); n != len(odd) || err != nil {
		t.Fatal(n, err)
	}
	if !bytes.Equal(odd, buf[3:3+5001]) {
		t.Error("an unaligned read differs")
	}
	if n, err := d.ReadAt(odd, 1<<20-10); n != 10 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
	if _, err := d.WriteAt(buf[:100], 0); !errors.Is(err, ErrAlignment) {
		t.Errorf("unaligned write: %v", err)
	}
	if _, err := d.WriteAt(buf, 1<<20-4096); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("write over the end: %v", err)
	}
}

func TestOpenRefusesOtherThings(t *testing.T) {
	if _, err := Open(context.Background(), t.TempDir(), Options{}); !errors.Is(err, ErrNotDevice) {
		t.Errorf("directory: %v", err)
	}
	if _, err := Open(context.Background(), "/dev/null", Options{}); !errors.Is(err, ErrNotDevice) {
		t.Errorf("/dev/null: %v", err)
	}
	if _, err := Open(context.Background(), "/no/such/thing", Options{}); !errors.Is(err,
		os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

func TestLoopDevice(t *testing.T) {
	for _, sector := range []int{512, 4096} {
		t.Run(fmt.Sprint(sector), func(t *testing.T) {
			path := tempDisk(t, 32<<20)
			dev := loopDevice(t, path, "--direct-io=on", "--sector-size", fmt.Sprint(sector))
			d := open1(t, dev, Options{})
			g := d.Geometry()
			if g.LogicalBlock != sector || g.PhysicalBlock < sector || g.IOMin < sector ||
				g.Size != 32<<20 || g.MemoryAlign < 1 || g.ReadOnly {
				t.Errorf("%+v", g)
			}
			if !d.IsBlock() || d.Rdev() == 0 {
				t.Error("not a block device?")
			}
			if _, err := Open(context.Background(), dev, Options{}); !errors.Is(err, ErrBusy) {
				t.Errorf("second open: %v", err)
			}
			// The file below is locked as well, and the error names the holder.
			if _, err := Open(context.Background(), path, Options{}); !errors.Is(err, ErrBusy) ||
				!strings.Contains(err.Error(), dev) {
				t.Errorf("open of the file: %v", err)
			}
		})
	}
}

func TestMountedDeviceNamesTheMount(t *testing.T) {
	path := tempDisk(t, 32<<20)
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", path).CombinedOutput(); err != nil {
		t.Skipf("mkfs.ext4: %v: %s", err, out)
	}
	dev := loopDevice(t, path)
	dir := filepath.Join(t.TempDir(), "a mount")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(dev, dir, "ext4", 0, ""); err != nil {
		t.Skipf("mount: %v", err)
	}
	defer unix.Unmount(dir, 0)
	_, err := Open(context.Background(), dev, Options{Wait: time.Minute})
	if !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "mounted on "+dir) {
		t.Errorf("got %v", err)
	}
}

func TestReadOnlyDevice(t *testing.T) {
	dev := loopDevice(t, tempDisk(t, 1<<20), "--read-only")
	if _, err := Open(context.Background(), dev, Options{}); !errors.Is(err, ErrReadOnly) {
		t.Errorf("got %v", err)
	}
	d := open1(t, dev, Options{ReadOnly: true})
	if !d.Geometry().ReadOnly {
		t.Error("geometry does not say read-only")
	}
}

func TestSameDisk(t *testing.T) {
	dir := t.TempDir()
	a, b, link := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "link")
	for _, f := range []string{a, b} {
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(a, link); err != nil {
		t.Fatal(err)
	}
	if !SameDisk(a, link) || SameDisk(a, b) || SameDisk(a, filepath.Join(dir, "none")) ||
		SameDisk(a, dir) {
		t.Error("files are confused")
	}
}
