package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// importReply is what import --json prints.
type importReply struct {
	Listed, Marked, Known, Spared, Moved, Stay, Unreadable uint64
}

// TestImport takes over a list while the device is in use. Some of its blocks are bad, and some are
// well. No data is lost, and the bad ones can be written at once.
func TestImport(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	t.Run("512", func(t *testing.T) { testImport(t, 512) })
	t.Run("4096", func(t *testing.T) { testImport(t, 4096) })
}

func testImport(t *testing.T, bs int64) {
	rig.Guard(t, 4*time.Minute)
	d, s, lay := rig.Serve(t, rig.KindLoop, 16, bs, "1MiB")
	f := rig.Open(t, s.Dev)
	f.Fill(t, 0, f.Size, 1)
	const units = 40
	at := func(i int64) int64 { return lay.Head + i*(64<<10) }
	var bad []rig.Extent
	var list strings.Builder
	for i := range int64(units) {
		if i%2 == 0 {
			bad = append(bad, rig.At(at(i), bs))
		}
		fmt.Fprintln(&list, at(i)/bs)
	}
	d.SetBad(t, bad)
	stop := make(chan struct{})
	written := make(chan error, 1)
	go func() { written <- overwrite(f, at(3)+4096, stop) }()
	file := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(file, []byte(list.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	refusesLists(t, s, list.String())
	args := []string{"import", s.Dev, file, "--format", "badblocks", "--block-size",
		fmt.Sprint(bs), "--json"}
	want := importReply{Listed: units, Marked: units, Moved: units / 2, Unreadable: units / 2}
	for range 2 {
		var got importReply
		rig.Parse(t, rig.Want(t, 0, args...), &got)
		if got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		want = importReply{Listed: units, Known: units / 2, Spared: units / 2,
			Unreadable: units / 2}
	}
	close(stop)
	if err := <-written; err != nil {
		t.Error(err)
	}
	if st := s.Status(t); st.Remaps != units/2 || st.Pending != units/2 {
		t.Errorf("%d remaps, %d pending", st.Remaps, st.Pending)
	}
	buf := rig.Aligned(int(bs))
	for i := range int64(units) {
		err := f.Read(buf, at(i))
		switch {
		case i%2 == 0 && err != syscall.EIO, i%2 == 1 && err != nil:
			t.Errorf("block %d: %v", at(i)/bs, err)
		case i%2 == 1:
			rig.WantPattern(t, buf, at(i), 1)
		default:
			f.Fill(t, at(i), at(i)+bs, 2)
		}
	}
	f.Close()
	s.Kill(t)
	s.Start(t)
	f = rig.Open(t, s.Dev)
	for i := range int64(units) {
		if err := f.Read(buf, at(i)); err != nil {
			t.Errorf("block %d: %v", at(i)/bs, err)
		}
		rig.WantPattern(t, buf, at(i), uint64(2-i%2))
	}
	f.Close()
}

// refusesLists: what is no list, and what lies past the end, is refused in one line that says
// where, and nothing is changed.
func refusesLists(t *testing.T, s *rig.Set, good string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "list")
	for _, c := range []struct{ format, text, where string }{
		{"badblocks", good + "x\n", "list:41: "},
		{"badblocks", "5\n99999999\n", "list:2: "},
		{"ddrescue", "0 +\n0 512 -\n1024 512 +\n", "list:3: "},
		{"smart", "{\n\"smartctl\": {}\n", "list:3: "},
		{"nvme", "hello", "list: "},
		{"dm-remap", "hello", "list: "},
	} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		r := rig.Want(t, 2, "import", s.Dev, file, "--format", c.format)
		if !strings.Contains(r.Stderr, c.where) || strings.Count(r.Stderr, "\n") != 1 {
			t.Errorf("%s: %s", c.format, r.Stderr)
		}
	}
	rig.Want(t, 2, "import", s.Dev, file, "--format", "xml")
	rig.Want(t, 2, "import", s.Dev, file, "--format", "badblocks", "--of", "me")
	rig.Want(t, 4, "import", s.Dev, file+"x", "--format", "badblocks")
	rig.Want(t, 4, "import", "nosuch", file, "--format", "badblocks")
	if st := s.Status(t); st.Remaps+st.Pending != 0 {
		t.Errorf("%d remaps, %d pending", st.Remaps, st.Pending)
	}
}

// overwrite writes one place again and again, as a user beside the import.
func overwrite(f *rig.Direct, at int64, stop <-chan struct{}) error {
	buf := rig.Aligned(4096)
	for {
		select {
		case <-stop:
			return nil
		default:
			if err := f.Write(buf, at); err != nil {
				return err
			}
		}
	}
}
