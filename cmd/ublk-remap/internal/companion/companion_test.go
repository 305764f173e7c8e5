package companion

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
)

func TestFind(t *testing.T) {
	beside, installed := t.TempDir(), t.TempDir()
	_, err := find(beside, installed)
	if !errors.Is(err, exit.ErrNotFound) || !strings.Contains(err.Error(), beside) ||
		!strings.Contains(err.Error(), installed) {
		t.Errorf("none: %v", err)
	}
	for _, dir := range []string{installed, beside} {
		want := filepath.Join(dir, Name)
		if err := os.WriteFile(want, nil, 0o755); err != nil {
			t.Fatal(err)
		}
		if got, err := find(beside, installed); got != want || err != nil {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	// A directory of that name is not the program, and a path that cannot be looked at is named.
	if err := os.Remove(filepath.Join(beside, Name)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(beside, Name), 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := find(beside, installed); got != filepath.Join(installed, Name) {
		t.Errorf("%q, %v", got, err)
	}
	loop := filepath.Join(t.TempDir(), "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	if _, err := find(loop, beside); err == nil || !strings.Contains(err.Error(), loop) ||
		strings.Contains(err.Error(), "package") {
		t.Errorf("a path that cannot be looked at: %v", err)
	}
}

// TestWithoutProc: nothing tells where this program is, and the error says what is missing.
func TestWithoutProc(t *testing.T) {
	_, err := program("", &fs.PathError{Op: "readlink", Path: "/proc/self/exe",
		Err: syscall.ENOENT})
	if exit.Code(err) != exit.Unsupported || !strings.Contains(err.Error(), "mount -t proc") {
		t.Error(err)
	}
	other := errors.New("another reason")
	if _, err := program("", other); !errors.Is(err, other) {
		t.Error(err)
	}
}
