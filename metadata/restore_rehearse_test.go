package metadata

import (
	"errors"
	"testing"
)

// TestRehearseRestore: a backup of each golden image restores to disks that hold nothing, and a
// backup whose table differs from what it would restore is found.
func TestRehearseRestore(t *testing.T) {
	for _, g := range golden {
		disks := readGolden(t, g.name)
		img, err := Load(devices(disks))
		if err != nil {
			t.Fatal(err)
		}
		b, err := img.Backup(1)
		if err != nil {
			t.Fatal(err)
		}
		table, err := img.Table()
		if err != nil {
			t.Fatal(err)
		}
		counts, err := RehearseRestore(b, RunOptions{Now: 1, Session: 2})
		if err != nil || counts != table.Counts() {
			t.Errorf("%s: %+v: %v", g.name, counts, err)
		}
		other := NewTable(img.Layout())
		if same, err := sameEntries(table, other); err != nil || same {
			t.Errorf("%s: an empty table is the same: %v", g.name, err)
		}
	}
	d := &sparseDevice{size: 8 * PageSize, pages: map[int64][]byte{}}
	if _, err := d.WriteAt(AlignedBytes(2*PageSize), 7*PageSize); err == nil ||
		errors.Is(err, errRehearsal) {
		t.Error("a write beyond the end")
	}
}
