package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ublkremap/test/vmtest"
)

// TestBackupLive takes a backup of the metadata while the device is in use and
// heals, loses every checkpoint later on, and restores: nothing may be missing,
// also of what was healed after the backup.
func TestBackupLive(t *testing.T) {
	vmtest.NeedUblk(t)
	vmtest.NeedTools(t, "mkfs.ext4")
	guard(t, 4*time.Minute)
	const bs = 512
	d := newDisk(t, kindLoop, 64, bs)
	s := create(t, d, "--spare", "2MiB")
	lay := layoutOf(t, d)
	s.start(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "backup")

	mkfs(t, "ext4", s.dev)
	mnt := mount(t, "ext4", s)
	for _, args := range [][]string{
		{"backup", d.path, filepath.Join(mnt, "backup")}, // on itself
		{"backup", d.path, s.dev},
		{"repair", d.path, "--yes"},
		{"check", d.path},
	} {
		remap(t, append([]string{"metadata"}, args...)...).want(t, exitRefused)
	}
	umount(t, mnt)

	f := openUntilClosed(t, s.dev)
	defer func() { f.close() }()
	f.fill(t, 0, f.size, 1)
	at := func(i int) int64 { return lay.head + int64(i)*(64<<10) }
	var bad []extent
	for i := range 40 {
		bad = append(bad, extent{at(i) + bs, 2 * bs})
	}
	d.setBad(t, bad)
	heal := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			f.fill(t, at(i), at(i)+4096, 2)
		}
	}
	heal(0, 20)
	var b struct {
		Live  bool
		Table struct{ Mapped int }
		UUID  string
	}
	parse(t, remap(t, "metadata", "backup", s.dev, file, "--json"), &b)
	if !b.Live || b.Table.Mapped != 20 || b.UUID != s.status(t).UUID {
		t.Errorf("%+v", b)
	}
	if r := remap(t, "metadata", "restore", d.path, file, "--yes"); r.code != exitRefused {
		t.Errorf("restore of a disk that is being served\n%s", r)
	}
	heal(20, 40)
	f.close()
	s.stop(t)

	// Bad sectors all over the checkpoints of both mirrors, which writing heals.
	disk := openUntilClosed(t, d.path)
	for i := range lay.mirrors {
		zero := aligned(int(lay.logs[i].start - lay.mirrors[i].start))
		if err := disk.write(zero, lay.mirrors[i].start); err != nil {
			t.Fatal(err)
		}
	}
	if err := disk.flush(); err != nil {
		t.Fatal(err)
	}
	disk.close()
	remap(t, "start", d.path).want(t, exitDamaged)
	remap(t, "metadata", "repair", d.path, "--yes").want(t, exitDamaged)
	if out := remap(t, "metadata", "restore", d.path, file, "--yes").want(t,
		exitDone); strings.Contains(out, "risk") || !strings.Contains(out, "no problems") {
		t.Error(out)
	}
	s.start(t)
	f = openUntilClosed(t, s.dev)
	buf := aligned(4096)
	for i := range bad {
		if err := f.read(buf, at(i)); err != nil {
			t.Errorf("read of unit %d: %v", i, err)
		} else {
			checkPattern(t, buf, at(i), 2)
		}
	}
	if st := s.status(t); st.Remaps != 40 || st.Lost != 0 {
		t.Errorf("%+v", st)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
}
