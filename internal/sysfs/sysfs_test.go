package sysfs

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"
)

func TestAttributes(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"size": "2048\n", "mask": "0x1ff\n", "empty": "",
		"word": " online \n", "unbound": "18446744073709551615\n", "negative": "-1\n",
		"least": "-9223372036854775809\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]struct {
		n  int64
		ok bool
	}{
		"size": {2048, true}, "mask": {511, true}, "negative": {-1, true},
		"unbound": {math.MaxInt64, true}, "least": {},
		"empty": {}, "word": {}, "missing": {},
	} {
		n, ok := Lookup(dir, name)
		if ok != want.ok || ok && n != want.n {
			t.Errorf("%s: %d, %v; want %d, %v", name, n, ok, want.n, want.ok)
		}
	}
	if got := Int(dir, "missing"); got != 0 {
		t.Errorf("a number that is missing: %d", got)
	}
	if text, err := Text(filepath.Dir(dir), filepath.Base(dir)+"/word"); err != nil ||
		text != "online" {
		t.Errorf("%q, %v", text, err)
	}
	if text, err := Text(dir, "missing"); text != "" || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%q, %v", text, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{"0", "512", "0x1ff", "-1", "18446744073709551615",
		"-99999999999999999999", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if n, ok := parse(text); !ok && n > 0 {
			t.Errorf("%q: %d", text, n)
		}
	})
}
