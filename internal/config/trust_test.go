package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTrusted: each directory on the way to a file counts, also where a link leads, and the way of
// that link.
func TestTrusted(t *testing.T) {
	dir := t.TempDir()
	in := func(parts ...string) string { return filepath.Join(append([]string{dir}, parts...)...) }
	file := in("real", "deep", "down", "file")
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, nil, 0o644),
		os.MkdirAll(in("open", "closed"), 0o755), os.Symlink(file, in("open", "closed", "link")),
		os.Symlink("open/closed/link", in("far")), os.Symlink("../real", in("open", "real")),
		os.Symlink(in("real", "deep"), in("near")), os.Symlink("loop", in("loop"))); err != nil {
		t.Fatal(err)
	}
	mode := func(mode os.FileMode, parts ...string) {
		t.Helper()
		if err := os.Chmod(in(parts...), mode); err != nil {
			t.Fatal(err)
		}
	}
	want := func(blamed string, path string) {
		t.Helper()
		err := Trusted(path)
		if blamed == "" && err != nil || blamed != "" && (!errors.Is(err, ErrRefused) ||
			!strings.HasPrefix(err.Error(), blamed+": ")) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, path := range []string{file, in("far"), in("near", "down", "file"), in("open", "real",
		"deep", "..", "deep", "down", "file"), dir} {
		want("", path)
	}
	mode(0o777, "real", "deep")
	for _, path := range []string{file, in("far"), in("near", "down", "file")} {
		want(in("real", "deep"), path)
	}
	mode(0o777|os.ModeSticky, "real", "deep")
	want("", file)
	mode(0o775, "open")
	want(in("open"), in("far"))
	want(in("open"), in("open", "real", "deep"))
	want("", file)
	mode(0o664, "real", "deep", "down", "file")
	want(file, in("near", "down", "file"))
	if os.Geteuid() == 0 {
		mode(0o644, "real", "deep", "down", "file")
		if err := os.Lchown(in("near"), 4242, -1); err != nil {
			t.Fatal(err)
		}
		want(in("near"), in("near", "down", "file"))
		want("", file)
	}
	if err := Trusted(in("loop")); !errors.Is(err, unix.ELOOP) {
		t.Error(err)
	}
	if err := Trusted(in("none", "x")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// TestTrustedSecret: a file that others can read is no secret.
func TestTrustedSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	for mode, refused := range map[os.FileMode]bool{0o600: false, 0o640: false, 0o644: true,
		0o601: true, 0o660: true} {
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		if err := TrustedSecret(path); errors.Is(err, ErrRefused) != refused {
			t.Errorf("%v: %v", mode, err)
		}
	}
}
