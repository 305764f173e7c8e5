package hostile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// newFile makes a sparse file that is a disk.
func newFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, os.Truncate(path, diskSize))
	return path
}

// TestOneServerForADisk: by whatever path a disk that is being served is named, or a copy of it,
// there is no second server, and no create or check that could see or leave something half done.
func TestOneServerForADisk(t *testing.T) {
	vmtest.OnOneKernel(t)
	need(t)
	file := newFile(t)
	s := rig.Create(t, file, "", "--spare", "1MiB")
	data, err := os.ReadFile(file)
	must(t, err)
	backup := filepath.Join(t.TempDir(), "backup")
	rig.Remap(t, "metadata", "backup", file, backup).Want(t, 0)
	s.Start(t)
	dev := rig.Open(t, s.Dev)
	dev.Fill(t, 0, dev.Size, 7)
	must(t, dev.Flush())

	link := filepath.Join(t.TempDir(), "by-id-alias")
	must(t, os.Symlink(file, link))
	hard := file + ".hard"
	must(t, os.Link(file, hard))
	first := vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: file})
	second := vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: hard})
	mapped := vmtest.NewDM(t, fmt.Sprintf("0 %d linear %s 0\n", vmtest.Sectors(t, second),
		second)).Path
	over := vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: first})
	// The copy was made before the device had data: a server that takes it for the
	// disk reads old data.
	clone := filepath.Join(t.TempDir(), "clone")
	must(t, os.WriteFile(clone, data, 0o600))
	cloned := vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: clone})

	for _, c := range []struct{ what, path string }{
		{"the path", file}, {"a link", link}, {"a hard link", hard}, {"a loop", first},
		{"a second loop", second},
		{"a linear device", mapped}, {"a loop over a loop", over}, {"a copy", cloned},
		{"the exported device", s.Dev},
	} {
		code := rig.ExitRefused
		if c.path == s.Dev {
			code = rig.ExitNotFound // it shows no metadata
		}
		refusal(t, "start "+c.what, rig.Remap(t, "start", c.path), code)
		if c.path != s.Dev && c.path != mapped {
			refusal(t, "create on "+c.what, rig.Remap(t, "create", c.path, "--force", "--yes"),
				rig.ExitRefused)
		}
		if c.path != s.Dev {
			mendRefused(t, c.what, c.path, backup)
		}
		if c.path == file || c.path == first || c.path == over {
			refusal(t, "check "+c.what, rig.Remap(t, "metadata", "check", c.path), rig.ExitRefused)
		}
	}
	refusal(t, "create on a linear device", rig.Remap(t, "create", mapped, "--force", "--yes"),
		rig.ExitRefused)
	refusal(t, "start the name", rig.Remap(t, "start", s.Name), rig.ExitRefused)
	refusal(t, "its own spare device", rig.Remap(t, "create", s.Dev, "--force", "--yes",
		"--spare-device", first), rig.ExitRefused)

	if st := s.Status(t); st.State != "live" {
		t.Errorf("the server that was there is %s", st.State)
	}
	buf := rig.Aligned(rig.Step)
	for off := int64(0); off < dev.Size; off += rig.Step {
		b := buf[:min(rig.Step, dev.Size-off)]
		must(t, dev.Read(b, off))
		must(t, rig.CheckPattern(b, off, 7))
	}
	dev.Close()
	// As long as I/O waits for a server, dead or alive, the disk is not prepared again.
	s.Kill(t)
	mendRefused(t, "a copy while a device waits", cloned, backup)
	refusal(t, "create while a device waits", rig.Remap(t, "create", cloned, "--force", "--yes"),
		rig.ExitRefused, "ublk-remap stop")
	rig.Remap(t, "stop", s.Name).Want(t, 0)
	s.Dev = ""
}

// mendRefused: no verb writes the metadata of a disk anew that is being served, damaged or
// not, and no verb says that it would.
func mendRefused(t *testing.T, what, path, backup string) {
	t.Helper()
	for _, more := range [][]string{{"--yes"}, {"--dry-run"}} {
		refusal(t, "repair "+what, rig.Remap(t, append([]string{"metadata", "repair", path},
			more...)...), rig.ExitRefused)
		refusal(t, "restore "+what, rig.Remap(t,
			append([]string{"metadata", "restore", path, backup, "--force"}, more...)...),
			rig.ExitRefused)
	}
	refusal(t, "repair with a loss "+what, rig.Remap(t, "metadata", "repair", path, "--search",
		"--accept-loss", "--yes"), rig.ExitRefused)
}

// TestStartRaces: of servers that start at the same instant exactly one gets
// the disk, and the others say that they did not. A round of two, and one of
// four, one of them by name; 100 in the full run.
func TestStartRaces(t *testing.T) {
	vmtest.OnOneKernel(t)
	need(t)
	disk := vmtest.NewLoop(t, diskSize, vmtest.LoopOptions{})
	s := rig.Create(t, disk, "", "--spare", "1MiB")
	rounds := 2
	if vmtest.Full() {
		rounds = 100
	}
	for round := range rounds {
		racers := 2
		if round == rounds-1 {
			racers = 4
		}
		results := make([]rig.Result, racers)
		var wg sync.WaitGroup
		for i := range racers {
			wg.Go(func() {
				what := disk
				if i == 1 && round%2 == 1 {
					what = s.Name
				}
				results[i] = rig.Remap(t, "start", what)
			})
		}
		wg.Wait()
		won := 0
		for _, r := range results {
			switch r.Code {
			case 0:
				won++
				s.Dev = strings.TrimSpace(r.Stdout)
			case rig.ExitRefused:
			default:
				t.Errorf("round %d: %s", round, r)
			}
		}
		if won != 1 {
			t.Fatalf("round %d: %d servers have the disk: %v", round, won, results)
		}
		s.Stop(t)
	}
	nothingLeft(t)
	s.Check(t)
}

// TestStacked: a device of ours can be the disk of another set; what is below
// cannot be stopped or made anew meanwhile.
func TestStacked(t *testing.T) {
	vmtest.OnOneKernel(t)
	need(t)
	disk := vmtest.NewLoop(t, diskSize, vmtest.LoopOptions{})
	lower := rig.Create(t, disk, "", "--spare", "1MiB")
	lower.Start(t)
	upper := rig.Create(t, lower.Dev, "", "--spare", "1MiB")
	upper.Start(t)
	d := rig.Open(t, upper.Dev)
	d.Fill(t, 0, 1<<20, 3)
	must(t, d.Flush())
	buf := rig.Aligned(1 << 20)
	must(t, d.Read(buf, 0))
	must(t, rig.CheckPattern(buf, 0, 3))
	d.Close()
	refusal(t, "stop what is below", rig.Remap(t, "stop", lower.Dev), rig.ExitRefused)
	refusal(t, "create on what is below", rig.Remap(t, "create", lower.Dev, "--force", "--yes"),
		rig.ExitRefused)
	refusal(t, "create on the lowest", rig.Remap(t, "create", disk, "--force", "--yes"),
		rig.ExitRefused)
	upper.Stop(t)
	lower.Stop(t)
	lower.Check(t)
}

// addPartition makes partition 1 of [start, start+length) bytes.
func addPartition(t *testing.T, disk string, start, length int64) {
	t.Helper()
	f, err := os.Open(disk)
	must(t, err)
	defer f.Close()
	// struct blkpg_partition and blkpg_ioctl_arg, include/uapi/linux/blkpg.h.
	part := struct {
		start, length int64
		number        int32
		devname       [64]byte
		volname       [64]byte
		_             int32
	}{start: start, length: length, number: 1}
	arg := struct {
		op, flags, size, _ int32
		data               unsafe.Pointer
	}{op: unix.BLKPG_ADD_PARTITION, size: int32(unsafe.Sizeof(part)), data: unsafe.Pointer(&part)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKPG,
		uintptr(unsafe.Pointer(&arg))); errno != 0 {
		t.Fatalf("add a partition to %s: %v", disk, errno)
	}
}

// TestPartitionAndDisk: a user of a partition keeps others from the whole disk, and
// the other way round.
func TestPartitionAndDisk(t *testing.T) {
	vmtest.OnOneKernel(t)
	need(t)
	disk := vmtest.NewNullBlk(t, vmtest.NullBlkOptions{SizeMiB: 48, BlockSize: 512}).Path
	addPartition(t, disk, 1<<20, 40<<20)
	part := disk + "p1"
	rig.Until(t, part, func() bool { _, err := os.Stat(part); return err == nil })
	s := rig.Create(t, part, "", "--spare", "1MiB")
	s.Start(t)
	refusal(t, "create on the disk of a partition", rig.Remap(t, "create", disk, "--force",
		"--yes"), rig.ExitRefused, "in use")
	backup := filepath.Join(t.TempDir(), "backup")
	rig.Remap(t, "metadata", "backup", part, backup).Want(t, 0)
	mendRefused(t, "the disk of a partition", disk, backup)
	s.Stop(t)
	s.Check(t)
	w := rig.Create(t, disk, "", "--spare", "1MiB")
	w.Start(t)
	mendRefused(t, "a partition of a disk", part, backup)
	refusal(t, "create on a partition of a disk", rig.Remap(t, "create", part, "--force", "--yes"),
		rig.ExitRefused, "in use")
	w.Stop(t)
}

// TestDiskIsAnother: block sizes and sizes that are not what they were, and
// devices that do not answer.
func TestDiskIsAnother(t *testing.T) {
	vmtest.OnOneKernel(t)
	need(t)
	file := newFile(t)
	small := vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: file})
	s := rig.Create(t, small, "", "--spare", "1MiB")
	f, err := os.Open(small)
	must(t, err)
	defer f.Close()
	must(t, unix.IoctlSetInt(int(f.Fd()), unix.LOOP_SET_BLOCK_SIZE, 4096))
	refusal(t, "start with larger blocks", rig.Remap(t, "start", small), rig.ExitRefused,
		"blocks of 4096",
		"512")
	nothingLeft(t)
	must(t, unix.IoctlSetInt(int(f.Fd()), unix.LOOP_SET_BLOCK_SIZE, 512))

	must(t, os.Truncate(file, diskSize-(1<<20)))
	must(t, unix.IoctlSetInt(int(f.Fd()), unix.LOOP_SET_CAPACITY, 0))
	refusal(t, "start a disk that has shrunk", rig.Remap(t, "start", small), rig.ExitDamaged,
		fmt.Sprint(diskSize), fmt.Sprint(diskSize-(1<<20)))
	nothingLeft(t)
	must(t, os.Truncate(file, 2*diskSize))
	must(t, unix.IoctlSetInt(int(f.Fd()), unix.LOOP_SET_CAPACITY, 0))
	// What was cut off is gone with the last copy of the superblock and mirror B: the rest is
	// enough. Another device hangs meanwhile.
	hung := vmtest.NewDM(t, vmtest.LinearTable(t, vmtest.NewLoop(t, diskSize,
		vmtest.LoopOptions{})))
	hung.Suspend(t)
	r := rig.Remap(t, "start", s.Name)
	hung.Resume(t)
	t.Logf("start NAME of a disk that has grown: %s", r)
	s.Dev = r.Want(t, 0)
	t.Logf("state: %s", s.Status(t).State)
	s.Stop(t)
}
