// Package diskfile makes sparse files that stand for disks, in tests that need no block device.
package diskfile

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"ublkremap/internal/blockdev"
)

// New makes a sparse file of that many bytes and returns its path. The file goes with the test.
func New(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	return path
}

// Open opens a file for direct I/O, exclusively. It skips the test where the file system has no
// direct I/O. The caller closes the device.
func Open(t testing.TB, path string) *blockdev.Device {
	t.Helper()
	d, err := blockdev.Open(context.Background(), path, blockdev.Options{})
	if errors.Is(err, blockdev.ErrNoDirectIO) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}
