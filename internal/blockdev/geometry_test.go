package blockdev

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// TestPunches: the check whether holes can be punched changes nothing, whatever the size is.
func TestPunches(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "disk")
	data := make([]byte, 1<<20+4096)
	for i := range data {
		data[i] = byte(i>>8) | 1
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := Open(context.Background(), path, Options{})
	if err != nil {
		t.Skip(err)
	}
	defer d.Close()
	can := d.Punches()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != string(data) {
		t.Errorf("the file has %d bytes, or other ones: %v", len(got), err)
	}
	t.Logf("holes: %v, zeroes: %v", can, d.Geometry().ZeroRange)
}
