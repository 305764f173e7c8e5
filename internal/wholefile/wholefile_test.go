package wholefile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

const temporary = ".temporary-*"

func text(s string) func(io.Writer) error {
	return func(w io.Writer) error { _, err := io.WriteString(w, s); return err }
}

// holds fails unless the directory has this file with these contents and this mode, and no other.
func holds(t *testing.T, path, want string, mode fs.FileMode) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil || string(b) != want {
		t.Errorf("it has %q, not %q: %v", b, want, err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != mode {
		t.Errorf("%v, not %v: %v", st.Mode(), mode, err)
	}
	alone(t, filepath.Dir(path), filepath.Base(path))
}

func alone(t *testing.T, dir string, want ...string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range all {
		names = append(names, e.Name())
	}
	if len(names) != len(want) || len(want) == 1 && names[0] != want[0] {
		t.Errorf("the directory has %q, not %q", names, want)
	}
}

// TestReplace: a file is made and replaced, and its old contents can be read until the new ones are
// whole. Nothing is left of a write that fails.
func TestReplace(t *testing.T) {
	for name, replace := range map[string]func(string, string, func(io.Writer) error) error{
		"durable": Replace, "in memory": ReplaceInMemory} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			for _, s := range []string{"old", "new"} {
				if err := replace(path, temporary, text(s)); err != nil {
					t.Fatal(err)
				}
				holds(t, path, s, 0o600)
			}
			broken := errors.New("broken")
			err := replace(path, temporary, func(w io.Writer) error {
				if err := text("torn")(w); err != nil {
					return err
				}
				if b, err := os.ReadFile(path); string(b) != "new" {
					t.Errorf("half written, it has %q, %v", b, err)
				}
				return broken
			})
			if !errors.Is(err, broken) {
				t.Error(err)
			}
			holds(t, path, "new", 0o600)
			dir := filepath.Join(filepath.Dir(path), "file", "missing")
			if err := replace(dir, temporary, text("")); err == nil {
				t.Error("a file was written where there is no directory")
			}
		})
	}
}

// TestCreate: a file that exists is kept.
func TestCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	broken := errors.New("broken")
	err := Create(path, temporary, 0o644, func(io.Writer) error { return broken })
	if !errors.Is(err, broken) {
		t.Error(err)
	}
	alone(t, filepath.Dir(path))
	if err := Create(path, temporary, 0o644, text("first")); err != nil {
		t.Fatal(err)
	}
	holds(t, path, "first", 0o644)
	if err := Create(path, temporary, 0o600, text("second")); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	holds(t, path, "first", 0o644)
}
