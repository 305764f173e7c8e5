package logging

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNew(t *testing.T) {
	var b bytes.Buffer
	l, err := New(&b, "warn", "json")
	if err != nil {
		t.Fatal(err)
	}
	l.Info().Msg("no")
	l.Warn().Str("k", "v").Msg("yes")
	if got := b.String(); !strings.HasPrefix(got, `{"level":"warn","k":"v","time":`) ||
		strings.Contains(got, "no") {
		t.Error(got)
	}
	b.Reset()
	if l, err = New(&b, "info", "console"); err != nil {
		t.Fatal(err)
	}
	l.Info().Msg("hello")
	if got := b.String(); !strings.Contains(got, "INF hello") || strings.Contains(got, "\x1b") {
		t.Errorf("%q", got)
	}
	for _, bad := range [][2]string{{"loud", "json"}, {"", ""}, {"info", "xml"}} {
		if _, err := New(&b, bad[0], bad[1]); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestFileIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	fresh := func() (*os.File, error) {
		return os.OpenFile(path,
			os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	}
	f, err := OpenFile(path, path+".1", fresh)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	line := []byte(strings.Repeat("x", 1023) + "\n")
	for range 3*maxFile/len(line) + 7 {
		if _, err := f.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{path, path + ".1"} {
		st, err := os.Stat(p)
		if err != nil || st.Size() > maxFile || st.Size() == 0 {
			t.Errorf("%s: %v, %v", p, st, err)
		}
	}
	// It continues at the end of the file.
	again, err := OpenFile(path, path+".1", fresh)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.size == 0 {
		t.Error("began anew")
	}
}
