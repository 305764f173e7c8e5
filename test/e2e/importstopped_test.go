package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestImportStopped takes over a list for a set that is stopped: by its disk and by its name. While
// a device waits for its server it is refused. After a start the blocks read what they held, and
// those that still read move.
func TestImportStopped(t *testing.T) {
	vmtest.Long(t)
	vmtest.NeedUblk(t)
	rig.Guard(t, 4*time.Minute)
	const bs = 512
	d, s, lay := rig.Serve(t, rig.KindLoop, 16, bs, "1MiB")
	f := rig.Open(t, s.Dev)
	f.Fill(t, 0, f.Size, 1)
	f.Close()
	const units = 20
	at := func(i int64) int64 { return lay.Head + i*(64<<10) }
	var bad []rig.Extent
	var list strings.Builder
	for i := range int64(units) {
		if i%2 == 0 {
			bad = append(bad, rig.At(at(i), bs))
		}
		fmt.Fprintln(&list, at(i)/bs)
	}
	file := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(file, []byte(list.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	args := func(what string) []string {
		return []string{"import", what, file, "--format", "badblocks", "--block-size",
			fmt.Sprint(bs), "--json"}
	}
	s.Kill(t)
	for _, what := range []string{s.Dev, s.Name, d.Path} {
		if r := rig.Remap(t, args(what)...); r.Code == 0 || strings.Count(r.Stderr, "\n") != 1 ||
			!strings.Contains(r.Stderr, "start") {
			t.Errorf("%s waits for its server: %d, %s", what, r.Code, r.Stderr)
		}
	}
	s.Start(t)
	s.Stop(t)
	d.SetBad(t, bad)
	var got importReply
	rig.Parse(t, rig.Want(t, 0, args(d.Path)...), &got)
	if got != (importReply{Listed: units, Marked: units}) {
		t.Errorf("%+v", got)
	}
	rig.Parse(t, rig.Want(t, 0, args(s.Name)...), &got)
	if got != (importReply{Listed: units, Known: units}) {
		t.Errorf("again: %+v", got)
	}
	s.Start(t)
	if st := s.Status(t); st.Pending != units || st.Remaps != 0 {
		t.Errorf("%d pending, %d remaps", st.Pending, st.Remaps)
	}
	rig.Parse(t, rig.Want(t, 0, args(s.Dev)...), &got)
	if got != (importReply{Listed: units, Known: units, Moved: units / 2, Unreadable: units / 2}) {
		t.Errorf("started: %+v", got)
	}
	f = rig.Open(t, s.Dev)
	defer f.Close()
	buf := rig.Aligned(bs)
	for i := range int64(units) {
		if i%2 == 0 {
			f.Fill(t, at(i), at(i)+bs, 2) // a write to a bad block heals at once
		}
		if err := f.Read(buf, at(i)); err != nil {
			t.Errorf("block %d: %v", at(i)/bs, err)
			continue
		}
		rig.WantPattern(t, buf, at(i), uint64(2-i%2))
	}
}
