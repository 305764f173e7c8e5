package e2e

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestImportMany imports a list of a million lines, most of them next to each other, as those of a
// dead zone are. A second import changes nothing, and a
// SIGKILL forgets nothing.
func TestImportMany(t *testing.T) {
	vmtest.OnOneKernel(t)
	if testing.Short() {
		t.Skip("a list of a million lines takes a while")
	}
	vmtest.NeedUblk(t)
	rig.Guard(t, 8*time.Minute)
	d := rig.NewDisk(t, rig.KindLoop, 768, 512)
	s := create(t, d)
	s.Start(t)
	const lines, first = 1_000_000, 100_000
	file := filepath.Join(t.TempDir(), "bad")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(f)
	for i := range lines {
		_, _ = fmt.Fprintln(w, first+i+i/1000) // a hole after each thousand; Flush says what fails
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	args := []string{"import", s.Dev, file, "--format", "badblocks", "--block-size", "512",
		"--mark-only", "--json"}
	began := time.Now()
	var got importReply
	rig.Parse(t, rig.Want(t, 0, args...), &got)
	t.Logf("%d lines in %v", lines, time.Since(began))
	if got.Listed != lines || got.Marked != lines {
		t.Errorf("%+v", got)
	}
	rig.Parse(t, rig.Want(t, 0, args...), &got)
	if got.Known != lines || got.Marked != 0 {
		t.Errorf("again: %+v", got)
	}
	s.Kill(t)
	s.Start(t)
	if st := s.Status(t); st.Pending != lines {
		t.Errorf("%d blocks are pending", st.Pending)
	}
}
