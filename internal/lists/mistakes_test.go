package lists

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestMistakes: what is handed in by mistake is called by its name, in one line, in each format
// that is text.
func TestMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"\x1f\x8b\x08\x00\x00\x00\x00\x00": "it is compressed (gzip)",
		"BZh91AY&SY":                       "it is compressed (bzip2)",
		"\xfd7zXZ\x00\x00":                 "it is compressed (xz)",
		"\x28\xb5\x2f\xfd\x04":             "it is compressed (zstd)",
		"PK\x03\x04\x14\x00":               "it is an archive (zip)",
		"\xff\xfe5\x00\n\x00":              "it is UTF-16 text",
		"\xfe\xff\x005\x00\n":              "it is UTF-16 text",
	} {
		for _, format := range []string{Badblocks, Ddrescue, Smart, NVMe} {
			_, err := read(text, format, 0, 1<<30)
			if !errors.Is(err, ErrList) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s, %q: %v", format, text, err)
			}
		}
	}
	_, err := read(strings.Repeat("\x00", 1<<20), Badblocks, 0, 1<<30)
	if !errors.Is(err, ErrList) || !strings.Contains(err.Error(), "a line has more than") {
		t.Error(err)
	}
}

// TestByteOrderMark: a mark at the start of a file, and carriage returns, do not matter in any
// format.
func TestByteOrderMark(t *testing.T) {
	for format, dirs := range map[string]string{Ddrescue: "ddrescue", Smart: "smart",
		NVMe: "nvme", Badblocks: "e2fsprogs"} {
		files, err := filepath.Glob("testdata/" + dirs + "/*")
		if err != nil || len(files) == 0 {
			t.Fatal(err, files)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			plain, err := read(string(b), format, 0, 1<<60)
			marked, also := read("\ufeff"+strings.ReplaceAll(string(b), "\n", "\r\n"), format, 0,
				1<<60)
			switch {
			case (err == nil) != (also == nil):
				t.Errorf("%s: %v, and with a mark %v", f, err, also)
			case err == nil && !slices.Equal(plain.Ranges, marked.Ranges):
				t.Errorf("%s: %v, and with a mark %v", f, plain.Ranges, marked.Ranges)
			}
		}
	}
}

// TestDisk: a list of smartctl says how large its disk is.
func TestDisk(t *testing.T) {
	const doc = `{"smartctl": {}, "user_capacity": {"blocks": 8, "bytes": 4096},
		"ata_pending_defects_log": {"table": []}}`
	if l, err := read(doc, Smart, 0, 1<<30); err != nil || l.Disk != 4096 {
		t.Error(l, err)
	}
}
