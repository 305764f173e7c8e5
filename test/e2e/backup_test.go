package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestBackupLive takes a backup of the metadata while the device is in use and
// heals, loses every checkpoint later on, and restores: nothing may be missing,
// also of what was healed after the backup.
func TestBackupLive(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	vmtest.NeedTools(t, "mkfs.ext4")
	rig.Guard(t, 4*time.Minute)
	const bs = 512
	d, s, lay := rig.Serve(t, rig.KindLoop, 64, bs, "2MiB")
	dir := t.TempDir()
	file := filepath.Join(dir, "backup")

	rig.Mkfs(t, "ext4", s.Dev)
	mnt := s.Mount(t, "ext4")
	for _, args := range [][]string{
		{"backup", d.Path, filepath.Join(mnt, "backup")}, // on itself
		{"backup", d.Path, s.Dev},
		{"repair", d.Path, "--yes"},
		{"check", d.Path},
	} {
		rig.Remap(t, append([]string{"metadata"}, args...)...).Want(t, rig.ExitRefused)
	}
	rig.Unmount(t, mnt)

	f := rig.Open(t, s.Dev)
	defer func() { f.Close() }()
	f.Fill(t, 0, f.Size, 1)
	at := func(i int) int64 { return lay.Head + int64(i)*(64<<10) }
	var bad []rig.Extent
	for i := range 40 {
		bad = append(bad, rig.At(at(i)+bs, 2*bs))
	}
	d.SetBad(t, bad)
	heal := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			f.Fill(t, at(i), at(i)+4096, 2)
		}
	}
	heal(0, 20)
	var b struct {
		Live  bool
		Table struct{ Mapped int }
		UUID  string
	}
	rig.Parse(t, rig.Remap(t, "metadata", "backup", s.Dev, file, "--json"), &b)
	if !b.Live || b.Table.Mapped != 20 || b.UUID != s.Status(t).UUID {
		t.Errorf("%+v", b)
	}
	if r := rig.Remap(t, "metadata", "restore", d.Path, file, "--yes"); r.Code != rig.ExitRefused {
		t.Errorf("restore of a disk that is being served\n%s", r)
	}
	heal(20, 40)
	f.Close()
	s.Stop(t)

	// Bad sectors all over the checkpoints of both mirrors, which writing heals.
	disk := rig.Open(t, d.Path)
	for i := range lay.Mirrors() {
		zero := rig.Aligned(int(lay.Logs(0)[i].Start - lay.Mirrors()[i].Start))
		if err := disk.Write(zero, lay.Mirrors()[i].Start); err != nil {
			t.Fatal(err)
		}
	}
	if err := disk.Flush(); err != nil {
		t.Fatal(err)
	}
	disk.Close()
	rig.Remap(t, "start", d.Path).Want(t, rig.ExitDamaged)
	rig.Remap(t, "metadata", "repair", d.Path, "--yes").Want(t, rig.ExitDamaged)
	if out := rig.Remap(t, "metadata", "restore", d.Path, file, "--yes").Want(t,
		rig.ExitDone); strings.Contains(out, "risk") || !strings.Contains(out, "no problems") {
		t.Error(out)
	}
	s.Start(t)
	f = rig.Open(t, s.Dev)
	buf := rig.Aligned(4096)
	for i := range bad {
		if err := f.Read(buf, at(i)); err != nil {
			t.Errorf("read of unit %d: %v", i, err)
		} else {
			rig.WantPattern(t, buf, at(i), 2)
		}
	}
	if st := s.Status(t); st.Remaps != 40 || st.Lost != 0 {
		t.Errorf("%+v", st)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
}
