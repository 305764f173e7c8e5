package drive

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDecode: what smartctl prints for each kind of drive.
func TestDecode(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		file string
		want limits
		err  string // part of it
	}{
		{"on.json", limits{70, 70}, ""},
		{"on-with-old-errors.json", limits{100, 100}, ""},
		{"off.json", limits{}, ""},
		{"read-off.json", limits{0, 70}, ""},
		{"set.json", limits{70, 70}, ""},
		{"none.json", limits{}, errNoControl.Error()},
		{"scsi.json", limits{}, errNoControl.Error()},
		{"nvme.json", limits{}, errNoControl.Error()},
		{"none-set.json", limits{}, "smartctl: exit status 4"},
		{"rejected.json", limits{}, "smartctl: exit status 4"},
		{"not-there.json", limits{}, "No such device"},
		{"usb-bridge.json", limits{}, "Unknown USB bridge"},
		{"scsi-recorded.json", limits{}, errNoControl.Error()},
		{"scsi-set-recorded.json", limits{}, errNoControl.Error()},
		{"missing-recorded.json", limits{}, "Unable to detect device type"},
		{"old.txt", limits{}, "older than 7.0"},
	} {
		b, err := os.ReadFile(filepath.Join("testdata", c.file))
		if err != nil {
			t.Fatal(err)
		}
		got, err := decode(b)
		switch {
		case c.err == "" && (err != nil || got != c.want):
			t.Errorf("%s: %+v, %v; want %+v", c.file, got, err, c.want)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: %+v, %v; want %q", c.file, got, err, c.err)
		}
		if (c.err == errNoControl.Error()) != errors.Is(err, errNoControl) {
			t.Errorf("%s: %v", c.file, err)
		}
	}
}

// FuzzDecode: any output gives limits that make sense, or an error.
func FuzzDecode(f *testing.F) {
	files, err := filepath.Glob("testdata/*.*")
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
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := decode(b); err == nil && (l.Read < 0 || l.Write < 0) {
			t.Errorf("%+v", l)
		}
	})
}

// FuzzState: a state names only timers of disks.
func FuzzState(f *testing.F) {
	f.Add([]byte(`{"disk":"sda","kernel":[{"path":"block/sda/device/timeout","before":"30"}]}`))
	f.Add([]byte(`{"disk":"sda","kernel":[{"path":"../etc/timeout"}]}`))
	f.Add([]byte(`{"kernel":[{"path":"devices/x/power/control"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeState(b)
		if err != nil {
			return
		}
		for _, k := range s.Kernel {
			if strings.Contains(k.Path, "..") && !filepath.IsLocal(k.Path) ||
				filepath.Base(k.Path) != "timeout" && filepath.Base(k.Path) != "eh_deadline" {
				t.Errorf("%q", k.Path)
			}
		}
	})
}
