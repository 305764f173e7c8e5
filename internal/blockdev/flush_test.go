package blockdev

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFUAOfAStack: a stack of devices has FUA if each of them has it.
func TestFUAOfAStack(t *testing.T) {
	root := t.TempDir()
	disk := func(name, fua string, below ...string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Join(root, name, "queue"), 0o755),
			os.MkdirAll(filepath.Join(root, name, "slaves"), 0o755)); err != nil {
			t.Fatal(err)
		}
		if fua != "" {
			if err := os.WriteFile(filepath.Join(root, name, "queue/fua"), []byte(fua+"\n"),
				0o644); err != nil {
				t.Fatal(err)
			}
		}
		for _, b := range below {
			if err := os.Symlink(filepath.Join(root, b), filepath.Join(root, name, "slaves",
				filepath.Base(b))); err != nil {
				t.Fatal(err)
			}
		}
	}
	disk("nvme", "1")
	disk("sata", "0")
	disk("silent", "") // a kernel that does not tell
	for _, part := range []string{"nvme/nvme1", "sata/sata1"} {
		if err := os.MkdirAll(filepath.Join(root, part), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, part, "partition"), []byte("1\n"),
			0o644); err != nil {
			t.Fatal(err)
		}
	}
	// Device mapper says that it has FUA if any device below has it.
	disk("dm-0", "1", "nvme/nvme1")
	disk("dm-1", "1", "nvme/nvme1", "sata/sata1")
	disk("dm-2", "1", "dm-0")
	disk("dm-3", "1", "dm-1")
	disk("dm-4", "1", "gone")
	disk("md0", "0", "nvme")
	for name, want := range map[string]bool{
		"nvme": true, "sata": false, "silent": false, "nvme/nvme1": true, "sata/sata1": false,
		"dm-0": true, "dm-1": false, "dm-2": true, "dm-3": false, "dm-4": false, "md0": false,
	} {
		if got := hasFUA(queueOf(filepath.Join(root, name)), maxStack); got != want {
			t.Errorf("%s: FUA %v, want %v", name, got, want)
		}
	}
	disk("loop", "1", "loop")
	if hasFUA(queueOf(filepath.Join(root, "loop")), maxStack) {
		t.Error("a stack without end has FUA")
	}
}

// TestFlushIsNotTriedAgain: the device may have dropped what it could not write, and the next flush
// would succeed.
func TestFlushIsNotTriedAgain(t *testing.T) {
	for _, first := range []error{nil, unix.EIO, unix.ENOSPC, unix.ENODATA, unix.EAGAIN,
		unix.ENOMEM} {
		calls := 0
		err := syncWith(3, func(int) error {
			if calls++; calls == 1 {
				return first
			}
			return nil
		})
		if !errors.Is(err, first) || calls != 1 {
			t.Errorf("%v: %d calls, answered %v", first, calls, err)
		}
	}
	calls := 0
	err := syncWith(3, func(int) error {
		switch calls++; calls {
		case 1, 2:
			return unix.EINTR
		case 3:
			return unix.EIO
		}
		return nil
	})
	if !errors.Is(err, unix.EIO) || calls != 3 {
		t.Errorf("interrupted twice: %d calls, answered %v", calls, err)
	}
}

// TestSettle: a flush that fails when a device is opened means that its cache may be lost, but not
// if it was not carried out for lack of resources.
func TestSettle(t *testing.T) {
	for _, c := range []struct {
		name     string
		errs     []error // of the flushes, in order; then all is well
		noteLoss bool
		lost     bool
		want     error
	}{
		{name: "well"},
		{name: "failed", errs: []error{unix.EIO}, lost: true, want: unix.EIO},
		{name: "failed, and noted", errs: []error{unix.EIO}, noteLoss: true, lost: true},
		{name: "fails", errs: []error{unix.EIO, unix.EIO, unix.EIO}, noteLoss: true, lost: true,
			want: unix.EIO},
		{name: "no memory", errs: []error{unix.ENOMEM, unix.EAGAIN, unix.EBUSY}},
		{name: "no memory, then failed", errs: []error{unix.ENOMEM, unix.EIO}, noteLoss: true,
			lost: true},
		{name: "never any memory", errs: slices.Repeat([]error{unix.ENOMEM}, 1000),
			want: unix.ENOMEM},
	} {
		var waited time.Duration
		d := &Device{}
		err := d.settleBy(func() error {
			if len(c.errs) == 0 {
				return nil
			}
			err := c.errs[0]
			c.errs = c.errs[1:]
			return err
		}, func(pause time.Duration) { waited += pause }, c.noteLoss)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) || d.LostCache() != c.lost {
			t.Errorf("%s: %v, lost: %v", c.name, err, d.LostCache())
		}
		if waited > settleResourcesFor {
			t.Errorf("%s: waited for %v", c.name, waited)
		}
	}
}

// TestFileHasNoFUA: a file system splits such a write in a write and a flush, or more.
func TestFileHasNoFUA(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := Open(t.Context(), path, Options{})
	if errors.Is(err, ErrNoDirectIO) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.Geometry().FUA {
		t.Error("a file has FUA")
	}
	if d.LostCache() {
		t.Error("a flush that went well counts as failed")
	}
}
