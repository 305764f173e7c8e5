package system

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"ublkremap/test/vmtest/kernel"
)

// A root in the cache is used as it is. None, and nothing to make one with, is an error
// that says what to do.
func TestGetRoot(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("PATH", t.TempDir())
	k := &kernel.Kernel{Release: "7.3", Image: "/kernels/7.3-x/linux", ModuleDir: "/m"}
	if _, err := GetRoot(cache, "bookworm", nil, k, t.Logf); !errors.Is(err, ErrNoMmdebstrap) {
		t.Errorf("an empty cache: %v", err)
	}
	dirs, err := filepath.Glob(filepath.Join(cache, "roots/bookworm-*"))
	if err != nil || len(dirs) != 1 {
		t.Fatal(dirs, err)
	}
	image := filepath.Join(dirs[0], "7.3-x-"+sum(agent, agentUnit, []byte(prepare))+".ext4")
	if err := os.WriteFile(image, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if r, err := GetRoot(cache, "bookworm", nil, k, t.Logf); err != nil || r.Image != image {
		t.Errorf("%v, %v", r, err)
	}
	if _, err := GetRoot(cache, "trixie", nil, k, t.Logf); !errors.Is(err, ErrNoMmdebstrap) {
		t.Errorf("the root of another suite: %v", err)
	}
	if _, err := GetRoot(cache, "bookworm", []string{"dracut"}, k,
		t.Logf); !errors.Is(err, ErrNoMmdebstrap) {
		t.Errorf("a root with more packages: %v", err)
	}
}

func TestNewSkips(t *testing.T) {
	t.Setenv(Env, "")
	skipped := true
	t.Run("host", func(t *testing.T) {
		New(t, Options{Suite: "bookworm"})
		skipped = false
	})
	if !skipped {
		t.Error("a host was made without being asked for")
	}
}
