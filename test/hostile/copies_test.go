package hostile

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// copyFile copies a disk that is a file.
func copyFile(t *testing.T, from, name string) string {
	t.Helper()
	data, err := os.ReadFile(from)
	must(t, err)
	to := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(to, data, 0o600))
	return to
}

// holds makes sure that a device shows the pattern of a seed at its start.
func holds(t *testing.T, dev string, seed uint64) {
	t.Helper()
	d := rig.Open(t, dev)
	defer d.Close()
	buf := rig.Aligned(rig.Step)
	must(t, d.Read(buf, 0))
	must(t, rig.CheckPattern(buf, 0, seed))
}

func fill(t *testing.T, dev string, seed uint64) {
	t.Helper()
	d := rig.Open(t, dev)
	defer d.Close()
	d.Fill(t, 0, rig.Step, seed)
	must(t, d.Flush())
}

// detach takes a loop device away, as if the disk had been unplugged. It stays while a process has
// it open, such as a server that has just been killed.
func detach(t *testing.T, loop string) {
	t.Helper()
	vmtest.Run(t, "losetup", "-d", loop)
	rig.Until(t, "the end of "+loop, func() bool {
		_, err := os.Stat(filepath.Join("/sys/block", filepath.Base(loop), "loop/backing_file"))
		return errors.Is(err, os.ErrNotExist)
	})
}

// attach makes a loop device that the test itself takes away.
func attach(t *testing.T, file string) string {
	t.Helper()
	out, err := exec.Command("losetup", "--find", "--show", "--direct-io=on", file).Output()
	must(t, err)
	loop := string(out[:len(out)-1])
	t.Cleanup(func() { _ = exec.Command("losetup", "-d", loop).Run() })
	return loop
}

// withCopy makes a set on a disk, which is a file, and a copy of it. Both show the pattern
// of seed 1.
func withCopy(t *testing.T) (file, disk, older string, s *rig.Set) {
	t.Helper()
	need(t)
	vmtest.NeedTools(t, "losetup")
	file = newFile(t)
	disk = attach(t, file)
	s = rig.Create(t, disk, "", "--spare", "1MiB")
	s.Start(t)
	fill(t, s.Dev, 1)
	s.Stop(t)
	return file, disk, attach(t, copyFile(t, file, "older")), s
}

// TestOlderCopy: while the disk is there, a copy that was made before the disk's last start is not
// started in any way, and the refusal says which is which. Without the disk, the copy is a disk
// like any other.
func TestOlderCopy(t *testing.T) {
	vmtest.OnOneKernel(t)
	_, disk, older, s := withCopy(t)

	// As long as neither was started since the copy was made, they cannot be told apart. A name is
	// refused; a path is accepted, because with it the user chooses a disk. From then on the other
	// disk is the older one.
	refusal(t, "start NAME of equal copies", rig.Remap(t, "start", s.Name), rig.ExitRefused,
		disk+" (epoch",
		older+" (epoch", "last started")
	s.Start(t)
	fill(t, s.Dev, 2)
	refusal(t, "start a copy beside the served disk", rig.Remap(t, "start", older), rig.ExitRefused,
		"served", s.Dev)
	s.Stop(t)
	link := filepath.Join(t.TempDir(), "by-id")
	must(t, os.Symlink(older, link))
	for _, path := range []string{older, link} {
		refusal(t, "start the older copy", rig.Remap(t, "start", path), rig.ExitRefused, path,
			"older copy",
			"start "+disk)
		refusal(t, "start the older copy, in the foreground", rig.Remap(t, "start", "--foreground",
			path), rig.ExitRefused, path, "older copy", "start "+disk)
	}
	var uuid struct {
		Superblock struct {
			UUID string `json:"uuid"`
		} `json:"superblock"`
	}
	rig.Parse(t, rig.Remap(t, "metadata", "check", "--json", disk), &uuid)
	for what, name := range map[string]string{"NAME": s.Name, "UUID": uuid.Superblock.UUID} {
		refusal(t, "start "+what, rig.Remap(t, "start", name), rig.ExitRefused, disk+" (epoch",
			older+" (epoch")
	}
	nothingLeft(t)
	// The newer one is started by its path, beside the older one.
	s.Start(t)
	holds(t, s.Dev, 2)
	s.Stop(t)
	detach(t, disk)
	s.Path = older
	s.Start(t)
	holds(t, s.Dev, 1)
	s.Stop(t)
	s.Check(t)
	nothingLeft(t)
}

// TestCopyForTheDead: a device whose server died is recovered with the disk that it had. An older
// copy is not taken. A copy that was made since then is not taken while the disk is there. If the
// disk comes back by another path, it is taken.
func TestCopyForTheDead(t *testing.T) {
	vmtest.OnOneKernel(t)
	file, disk, older, s := withCopy(t)
	s.Start(t)
	fill(t, s.Dev, 2)
	dev := s.Dev
	s.Kill(t)
	twin := attach(t, copyFile(t, file, "twin"))

	for range 2 {
		refusal(t, "an older copy for a dead server", rig.Remap(t, "start", older), rig.ExitRefused,
			older,
			"older copy", dev, disk, "ublk-remap stop "+s.Name)
		refusal(t, "a copy as new for a dead server", rig.Remap(t, "start", twin), rig.ExitRefused,
			twin,
			dev, disk, "copy")
	}
	// By its name it is the disk that the dead server had.
	s.Path = s.Name
	s.Start(t)
	if s.Dev != dev {
		t.Errorf("the device was %s and is %s", dev, s.Dev)
	}
	holds(t, s.Dev, 2)

	// The disk comes back by another path.
	s.Kill(t)
	detach(t, disk)
	refusal(t, "an older copy, the disk being away", rig.Remap(t, "start", older), rig.ExitRefused,
		older,
		"older copy", dev)
	detach(t, twin)
	detach(t, older)
	s.Path = attach(t, file)
	s.Start(t)
	if s.Dev != dev {
		t.Errorf("the device was %s and is %s", dev, s.Dev)
	}
	holds(t, s.Dev, 2)
	s.Stop(t)
	s.Check(t)
}

// TestSnapshot: a snapshot, as device-mapper makes them for LVM, is a copy as any
// other.
func TestSnapshot(t *testing.T) {
	vmtest.OnOneKernel(t)
	need(t)
	disk := vmtest.NewLoop(t, diskSize, vmtest.LoopOptions{})
	cow := vmtest.NewLoop(t, diskSize, vmtest.LoopOptions{})
	sectors := vmtest.Sectors(t, disk)
	origin := vmtest.NewDM(t, fmt.Sprintf("0 %d snapshot-origin %s\n", sectors, disk)).Path
	s := rig.Create(t, origin, "", "--spare", "1MiB")
	s.Start(t)
	fill(t, s.Dev, 1)
	s.Stop(t)
	snapshot := vmtest.NewDM(t, fmt.Sprintf("0 %d snapshot %s %s N 8\n", sectors, disk, cow)).Path
	refusal(t, "start NAME", rig.Remap(t, "start", s.Name), rig.ExitRefused, origin, snapshot)
	s.Start(t)
	fill(t, s.Dev, 2)
	refusal(t, "start a snapshot of a served disk", rig.Remap(t, "start", snapshot),
		rig.ExitRefused,
		"served", s.Dev)
	refusal(t, "create on a snapshot of a served disk", rig.Remap(t, "create", "--force", "--yes",
		snapshot), rig.ExitRefused, s.Dev)
	refusal(t, "release a snapshot of a served disk", rig.Remap(t, "release", "--yes", snapshot),
		rig.ExitRefused, s.Dev)
	s.Kill(t)
	refusal(t, "start a snapshot for a dead server", rig.Remap(t, "start", snapshot),
		rig.ExitRefused,
		snapshot, s.Dev, origin)
	s.Start(t)
	holds(t, s.Dev, 2)
	s.Stop(t)
	refusal(t, "start a snapshot", rig.Remap(t, "start", snapshot), rig.ExitRefused, "older copy",
		"start "+origin)
	s.Check(t)
}

// TestRecordsAreGone: the files of a living server were removed. A copy of its disk is not taken
// for the disk, although nothing in /run describes the server.
func TestRecordsAreGone(t *testing.T) {
	vmtest.OnOneKernel(t)
	if !vmtest.Full() {
		t.Skip("UBLK_REMAP_FULL=1: who may be about to end is waited for, for a minute each")
	}
	need(t)
	file := newFile(t)
	s := rig.Create(t, file, "", "--spare", "1MiB")
	twin := copyFile(t, file, "twin")
	s.Start(t)
	fill(t, s.Dev, 1)
	pid := s.Status(t).ServerPID
	for _, suffix := range []string{".sock", ".json", ".lock"} {
		must(t, os.Remove(s.RunFile(suffix)))
	}
	refusal(t, "start a copy", rig.Remap(t, "start", twin), rig.ExitRefused, "served",
		fmt.Sprintf("kill %d", pid))
	refusal(t, "start the disk", rig.Remap(t, "start", file), rig.ExitRefused)
	if _, err := os.Stat(s.RunFile(".json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a record of a server that does not serve: %v", err)
	}
	holds(t, s.Dev, 1)
	s.LetDie()
	must(t, syscall.Kill(pid, syscall.SIGTERM))
	rig.Until(t, "the end of the server", func() bool { return !rig.Alive(pid) })
	s.Dev = ""
	nothingLeft(t)
	s.Check(t)
}
