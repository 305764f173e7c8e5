package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestOutputError: what a program has printed belongs to its error, and a program that printed
// nothing leaves no loose end.
func TestOutputError(t *testing.T) {
	why := errors.New("exit status 1")
	for out, want := range map[string]string{"": "x y: exit status 1",
		" \n": "x y: exit status 1", "no module\n": "x y: exit status 1: no module"} {
		got := outputError("x y", why, []byte(out))
		if !errors.Is(got, why) || got.Error() != want {
			t.Errorf("%q: %v", out, got)
		}
	}
	if err := outputError("x", nil, []byte("a warning")); err != nil {
		t.Error(err)
	}
}

// TestModprobe: why a module is not loaded is told in words, also if there is no modprobe.
func TestModprobe(t *testing.T) {
	dir := t.TempDir()
	fails := filepath.Join(dir, "fails")
	if err := os.WriteFile(fails, []byte("#!/bin/sh\necho no $1; exit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, says := range map[string]string{fails: "modprobe m: exit status 1: no m",
		filepath.Join(dir, "none"): "install kmod"} {
		if err := modprobeBy(t.Context(), path, "m"); err == nil ||
			!strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
