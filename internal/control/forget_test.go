package control

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// TestForgottenNameHasOneOwner: removing the lock of a name never gives the name a second owner.
func TestForgottenNameHasOneOwner(t *testing.T) {
	useTempDir(t)
	var owners, taken atomic.Int32
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 300 {
				o, err := Own("disk")
				if errors.Is(err, ErrOwned) {
					runtime.Gosched()
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				taken.Add(1)
				if n := owners.Add(1); n != 1 {
					t.Errorf("%d have the name", n)
				}
				if !Owned("disk") {
					t.Error("it has an owner, and that does not show")
				}
				runtime.Gosched()
				owners.Add(-1)
				if i%2 == 0 {
					err = o.Forget(true)
				} else {
					err = o.Release()
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if taken.Load() == 0 {
		t.Error("nobody ever had it")
	}
}

// TestForget: the files of a name are removed, its logs only if that is asked for.
func TestForget(t *testing.T) {
	useTempDir(t)
	for _, logs := range []bool{false, true} {
		o, err := Own("disk")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{LogPath("disk"), OldLog(LogPath("disk"))} {
			if err := os.WriteFile(p, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := o.Forget(logs); err != nil {
			t.Fatal(err)
		}
		left, err := os.ReadDir(Dir())
		if want := map[bool]int{false: 2, true: 0}[logs]; err != nil || len(left) != want {
			t.Errorf("logs %v: %v are left (%v), want %d", logs, left, err, want)
		}
	}
}

// TestLogIsNoLink: a log is not written through a link, whatever the link leads to.
func TestLogIsNoLink(t *testing.T) {
	useTempDir(t)
	to := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.Symlink(to, LogPath("disk")); err != nil {
		t.Fatal(err)
	}
	if f, err := OpenLog("disk"); !errors.Is(err, ErrRefused) {
		f.Close()
		t.Errorf("a link: %v", err)
	}
	if _, err := os.Stat(to); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it was followed: %v", err)
	}
}
