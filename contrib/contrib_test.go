// Package contrib holds what other projects need to know the disks of ublk-remap: an entry for the
// magic of file(1), and a prober for libblkid. Its tests try both.
package contrib

import (
	"compress/gzip"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// image unpacks a golden image.
func image(t *testing.T, name string) string {
	t.Helper()
	in, err := os.Open(filepath.Join("../metadata/testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// pair is what is said of either device of the pair.
const pair = `name "v4-pair-4096-partition", UUID 1fed8810-9aee-5982-94b0-db17adc73118, ` +
	"blocks of 4096 bytes, shows 16777216 bytes"

// TestFile: file(1) says what a disk is, with the magic of this directory alone, and before that of
// boot sectors.
func TestFile(t *testing.T) {
	program, err := exec.LookPath("file")
	if err != nil {
		t.Skip(err)
	}
	magics := []string{"file/ublk-remap"}
	// The first list of magic that has an entry wins.
	if _, err := os.Stat("/usr/share/misc/magic.mgc"); err == nil {
		magics = append(magics, "file/ublk-remap:/usr/share/misc/magic.mgc")
	}
	for _, c := range []struct{ image, want string }{
		{"v4-alone-512.0.img.gz", `ublk-remap disk, version 4, name "v4-alone-512", ` +
			"UUID 6041b0d1-d7c9-521b-a6ac-06a8a68bcec8, blocks of 512 bytes, shows 14680064 bytes"},
		{"v4-pair-4096-partition.0.img.gz", "ublk-remap disk, version 4, " + pair},
		{"v4-pair-4096-partition.1.img.gz", "ublk-remap spare device, version 4, " + pair},
	} {
		path := image(t, c.image)
		for _, magic := range magics {
			out, err := exec.Command(program, "-b", "-m", magic, path).CombinedOutput()
			if got := strings.TrimSuffix(string(out), "\n"); err != nil || got != c.want {
				t.Errorf("%s, magic %s: %v\n%s\nwant\n%s", c.image, magic, err, got, c.want)
			}
		}
	}
}
