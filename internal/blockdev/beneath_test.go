package blockdev

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// The device of a file system comes first. For a file system without a device the list is empty.
func TestBeneath(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/proc", "/not/there"} {
		if got := Beneath(path); got != nil {
			t.Errorf("%s: %q", path, got)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(".", &st); err != nil {
		t.Fatal(err)
	}
	name := nameOf(st.Dev)
	if name == "" {
		t.Skip("the file system here has no device")
	}
	got := Beneath(".")
	if len(got) == 0 || got[0] != name {
		t.Errorf("beneath . is %q, its device is %s", got, name)
	}
	all := slices.Clone(got)
	slices.Sort(all)
	if len(slices.Compact(all)) != len(got) {
		t.Errorf("more than once: %q", got)
	}
}
