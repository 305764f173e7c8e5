package lists

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fuzzed reads a list. It must be in order and within the device, or be refused in one line.
func fuzzed(t *testing.T, b []byte, format string) {
	const size = 1 << 40
	l, err := Read(bytes.NewReader(b), "list", Options{Format: format, Size: size,
		Offset: int64(len(b)%3-1) << 20})
	if err != nil {
		if !errors.Is(err, ErrList) || strings.ContainsAny(err.Error(), "\n") {
			t.Fatalf("%q", err)
		}
		return
	}
	for i, r := range l.Ranges {
		if r.Start < 0 || r.Start >= r.End || r.End > size ||
			i > 0 && r.Start <= l.Ranges[i-1].End {
			t.Fatalf("%v", l)
		}
	}
}

func FuzzBadblocks(f *testing.F) {
	f.Add([]byte("1\n2\n#\n"))
	f.Add([]byte("1 2\n0x3-0x5\n+7+8"))
	f.Fuzz(func(t *testing.T, b []byte) { fuzzed(t, b, Badblocks) })
}

func FuzzDdrescue(f *testing.F) {
	f.Add([]byte("# x\n0x0 ? 1\n0x0 0x400 +\n0x400 512 -\n01400 0x7FFFFFFFFFFFFCFF ?\n"))
	f.Fuzz(func(t *testing.T, b []byte) { fuzzed(t, b, Ddrescue) })
}

func FuzzSmart(f *testing.F) {
	files, err := filepath.Glob("testdata/smart/*.json")
	if err != nil || len(files) == 0 {
		f.Fatal(err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { fuzzed(t, b, Smart) })
}

func FuzzNVMe(f *testing.F) {
	f.Add([]byte(nvmeText23))
	f.Add([]byte(nvmeText210))
	f.Add([]byte(nvmeJSON210))
	f.Fuzz(func(t *testing.T, b []byte) { fuzzed(t, b, NVMe) })
}
