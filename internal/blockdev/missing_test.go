package blockdev

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMissingFile: the answer for a truncated file says so and names the file. test/breaker removes
// block devices.
func TestMissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := Open(context.Background(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	for _, c := range []struct {
		size, need int64
		want       string // "": the device is there
	}{
		{1 << 20, 1 << 20, ""},
		{1 << 21, 1 << 20, ""},
		{1<<20 - 4096, 1 << 20, "has shrunk"},
		{1<<20 - 4096, 1<<20 - 4096, ""},
		{0, 1 << 20, "is gone"},
	} {
		if err := os.Truncate(path, c.size); err != nil {
			t.Fatal(err)
		}
		why := d.Missing(c.need)
		if (why == "") != (c.want == "") || !strings.Contains(why, c.want) || why != "" &&
			!strings.HasPrefix(why, path+" ") {
			t.Errorf("%d bytes of %d: %q, want %q", c.size, c.need, why, c.want)
		}
	}
}

// TestListed: a device that sysfs lists does not count as missing.
func TestListed(t *testing.T) {
	list, _ := os.ReadDir("/sys/dev/block")
	if len(list) == 0 {
		t.Skip("no block device here")
	}
	for _, e := range list {
		var major, minor uint32
		a, b, _ := strings.Cut(e.Name(), ":")
		for _, c := range a {
			major = major*10 + uint32(c-'0')
		}
		for _, c := range b {
			minor = minor*10 + uint32(c-'0')
		}
		if unlisted(unix.Mkdev(major, minor)) {
			t.Errorf("%s is there", e.Name())
		}
	}
	if !unlisted(unix.Mkdev(4000, 1)) {
		t.Error("a number that no device has")
	}
}
