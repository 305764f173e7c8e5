package program

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestBeginning: the first bytes are kept, and a writer is told that all were taken.
func TestBeginning(t *testing.T) {
	b := Keep(5)
	for _, s := range []string{"", "ab", "cdef", "g"} {
		if n, err := io.WriteString(b, s); n != len(s) || err != nil {
			t.Errorf("%q: %d, %v", s, n, err)
		}
	}
	if b.String() != "abcde" || string(b.Bytes()) != "abcde" {
		t.Errorf("kept %q, %q", b, b.Bytes())
	}
	none := Keep(0)
	if n, err := none.Write([]byte("a")); n != 1 || err != nil || none.String() != "" {
		t.Errorf("%d, %v, kept %q", n, err, none)
	}
}

// TestFind: PATH comes first, then the directories of root. A path is taken as it is.
func TestFind(t *testing.T) {
	dir := t.TempDir()
	own := filepath.Join(dir, "ldconfig")
	if err := os.WriteFile(own, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	if path, err := Find("ldconfig"); path != own || err != nil {
		t.Errorf("%s, %v", path, err)
	}
	if path, err := Find(own); path != own || err != nil {
		t.Errorf("%s, %v", path, err)
	}
	for _, name := range []string{"no-such-program", filepath.Join(dir, "missing")} {
		if path, err := Find(name); path != "" || err == nil {
			t.Errorf("%s: %s, %v", name, path, err)
		}
	}
	if _, err := Find("no-such-program"); !errors.Is(err, exec.ErrNotFound) {
		t.Error(err)
	}
	t.Setenv("PATH", t.TempDir())
	if path, err := Find("ldconfig"); err != nil || !strings.HasSuffix(path, "sbin/ldconfig") {
		t.Errorf("%s, %v", path, err)
	}
}
