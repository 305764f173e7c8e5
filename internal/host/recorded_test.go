package host

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"ublkremap/internal/control"
)

// FuzzLookup looks for devices by any text that people may use for them. It must only find devices
// that the text names, because a verb that destroys something relies on it.
func FuzzLookup(f *testing.F) {
	dir, err := os.MkdirTemp("", "ur")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { os.RemoveAll(dir) })
	f.Setenv(control.DirEnv, dir)
	for i, name := range []string{"one", "7", "ublkb1", "ümläut"} {
		r := control.Record{
			Name: name, UUID: fmt.Sprintf("00000000-0000-0000-0000-00000000000%d", i), ID: i,
			Device:  fmt.Sprintf("/dev/ublkb%d", i),
			Backing: fmt.Sprintf("/nosuch/%d", i), BlockSize: 512, Blocks: 100,
		}
		if err := r.Write(); err != nil {
			f.Fatal(err)
		}
	}
	for _, s := range []string{
		"one", "7", "1", "/dev/ublkb0", "ublkb0", "ublkb1", "/dev/ublkb+1", "01", "4294967296",
		"-1", "", "/dev/", "ublkb", "/nosuch/2", "../one", "one\x00", "\xff",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, dev string) {
		r, err := (&Host{}).Lookup(dev)
		if err != nil {
			if !errors.Is(err, ErrNotFound) {
				t.Fatalf("%q: %v", dev, err)
			}
			return
		}
		number := strings.TrimLeft(strings.TrimPrefix(strings.TrimPrefix(dev, "/dev/"), "ublkb"),
			"0")
		if number == "" {
			number = "0"
		}
		if dev != r.Name && dev != r.UUID && dev != r.Backing && number != fmt.Sprint(r.ID) {
			t.Fatalf("%q is taken for %+v", dev, r)
		}
	})
}

// TestStatusNamed: who asks for a device by its name reads no other record. Without a record of
// that name it is as StatusOf.
func TestStatusNamed(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(control.DirEnv, dir)
	r := control.Record{Name: "one", UUID: "00000000-0000-0000-0000-000000000001",
		Device: "/dev/ublkb0", Backing: "/nosuch/1", BlockSize: 512, Blocks: 100}
	if err := r.Write(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(control.RecordPath("other"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	others := 0
	h := &Host{BadRecords: func(error) { others++ }}
	st, err := h.StatusNamed(t.Context(), "one")
	if err != nil || st.UUID != r.UUID || others != 0 {
		t.Errorf("%+v, %v; %d other records were read", st, err, others)
	}
	if st, err := h.StatusNamed(t.Context(), r.UUID); err != nil || st.Name != "one" ||
		others != 1 {
		t.Errorf("by its UUID: %+v, %v; %d other records were read", st, err, others)
	}
}
