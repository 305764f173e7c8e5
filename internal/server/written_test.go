package server

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestWritten: when a process that has written to the device or to a partition closes it, udev is
// told. For a process that only reads, udev is not told.
func TestWritten(t *testing.T) {
	dir, sys := t.TempDir(), t.TempDir()
	node := func(name string) string {
		if err := os.MkdirAll(filepath.Join(sys, name), 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	disk, first := node("ublkb1"), node("ublkb1p1")
	w, err := newWrittenWatch(dir, sys, "ublkb1")
	if err != nil {
		t.Fatal(err)
	}
	go w.run(dir)
	defer w.close()
	touch := func(path string, flag int) {
		t.Helper()
		f, err := os.OpenFile(path, flag, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	told := func(name string) {
		t.Helper()
		path := filepath.Join(sys, name, "uevent")
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
			if text, err := os.ReadFile(path); err == nil && string(text) == "change" {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				return
			}
			time.Sleep(time.Millisecond)
		}
		t.Fatalf("udev was not told of %s", name)
	}
	touch(disk, os.O_RDONLY)
	touch(first, os.O_WRONLY)
	told("ublkb1p1")
	if _, err := os.Stat(filepath.Join(sys, "ublkb1/uevent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("udev was told of a device that was only read: %v", err)
	}
	touch(disk, os.O_RDWR)
	told("ublkb1")

	// A partition that is new, and the next disk, which is somebody else's.
	second, other := node("ublkb1p2"), node("ublkb10")
	touch(disk, os.O_RDWR) // the watch has seen the new node when it tells of this
	told("ublkb1")
	touch(other, os.O_RDWR)
	touch(second, os.O_RDWR)
	told("ublkb1p2")
	if _, err := os.Stat(filepath.Join(sys, "ublkb10/uevent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("udev was told of another device: %v", err)
	}
	if err := os.Remove(first); err != nil {
		t.Fatal(err)
	}
	first = node("ublkb1p1")
	touch(disk, os.O_RDWR)
	told("ublkb1")
	touch(first, os.O_RDWR)
	told("ublkb1p1")
}

// TestWrittenWithoutRoom: while udev has no room to keep what it learns, it is not told. It is told
// once when there is room.
func TestWrittenWithoutRoom(t *testing.T) {
	dir, sys := t.TempDir(), t.TempDir()
	path := filepath.Join(sys, "ublkb1/uevent")
	if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o700),
		os.WriteFile(filepath.Join(dir, "ublkb1"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	w, err := newWrittenWatch(dir, sys, "ublkb1")
	if err != nil {
		t.Fatal(err)
	}
	asked, room := make(chan struct{}), make(chan bool)
	w.room = func() bool { asked <- struct{}{}; return <-room }
	go w.run(dir)
	defer w.close()
	answer := func(yes bool) { <-asked; room <- yes }
	for range 2 {
		go w.tell("ublkb1")
		answer(false)
	}
	answer(false) // the one that waits asks again
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("udev was told although it has no room: %v", err)
	}
	answer(true)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if text, err := os.ReadFile(path); err == nil && string(text) == "change" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("udev was not told once it had room")
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiting) > 0 {
		t.Errorf("%v still wait", w.waiting)
	}
}

func TestUdevHasRoom(t *testing.T) {
	if !udevHasRoom(t.TempDir()) || !udevHasRoom("/proc") || !udevHasRoom("/does/not/exist") {
		t.Error("no room in a directory, in a file system without limits, or in none")
	}
}
