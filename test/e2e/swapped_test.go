package e2e

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// swapOn makes a device swap space, and returns what ends that, once.
func swapOn(t testing.TB, dev string) (off func()) {
	t.Helper()
	// A swap header: include/linux/swap.h, union swap_header.
	f := rig.Open(t, dev)
	header := rig.Aligned(4096)
	clear(header)
	binary.LittleEndian.PutUint32(header[1024:], 1)
	binary.LittleEndian.PutUint32(header[1028:], uint32(f.Size/4096-1))
	copy(header[4096-10:], "SWAPSPACE2")
	if err := f.Write(header, 0); err != nil {
		t.Fatal(err)
	}
	f.Close()
	path, err := unix.BytePtrFromString(dev)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SWAPON, uintptr(unsafe.Pointer(path)), 0,
		0); errno != 0 {
		t.Fatalf("swapon: %v", errno)
	}
	swapped := true
	return func() {
		if swapped {
			swapped = false
			if _, _, errno := unix.Syscall(unix.SYS_SWAPOFF, uintptr(unsafe.Pointer(path)), 0,
				0); errno != 0 {
				t.Errorf("swapoff: %v", errno)
			}
		}
	}
}

// memoryGroup makes a control group whose memory is counted by itself.
func memoryGroup(t testing.TB) string {
	t.Helper()
	const root = "/sys/fs/cgroup"
	if err := os.WriteFile(root+"/cgroup.subtree_control", []byte("+memory"), 0); err != nil {
		t.Skipf("no memory controller of cgroup version 2: %v", err)
	}
	group := root + "/" + strings.ReplaceAll(t.Name(), "/", "-")
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(group) })
	return group
}

// pageOutFor is how long a kernel is asked to swap a file out. Some keep it in the swap cache, and
// then there is nothing to be seen.
const pageOutFor = 30 * time.Second

// pageOut has a file in tmpfs swapped out whose memory belongs to a control group, until
// nothing of it is in memory, or skips where the kernel keeps it. The rest of the system,
// this program among it, must stay.
func pageOut(t testing.TB, group, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil || st.Size() == 0 {
		t.Fatalf("%s is empty: %v", path, err)
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(b) }()
	there := make([]byte, (len(b)+4095)/4096)
	for deadline := time.Now().Add(pageOutFor); ; time.Sleep(20 * time.Millisecond) {
		if err := unix.Madvise(b, unix.MADV_PAGEOUT); err != nil {
			t.Fatalf("MADV_PAGEOUT of %s: %v", path, err)
		}
		// What was written out stays in the swap cache until memory is asked for. What
		// cannot be had is an error that means nothing.
		reclaim(group)
		if _, _, errno := unix.Syscall(unix.SYS_MINCORE,
			uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
			uintptr(unsafe.Pointer(unsafe.SliceData(there)))); errno != 0 {
			t.Fatalf("mincore of %s: %v", path, errno)
		}
		left := 0
		for _, p := range there {
			left += int(p & 1)
		}
		if left == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Skipf("%d of %d pages of %s stay in memory", left, len(there), path)
		}
	}
}

// reclaim asks for a little memory of a control group. It is plain system calls: the kernel
// answers EAGAIN if there is none, and package os would wait until the file can be written
// to, for ever.
func reclaim(group string) {
	fd, err := unix.Open(group+"/memory.reclaim", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return // an older kernel
	}
	_, _ = unix.Write(fd, []byte("8K"))
	_ = unix.Close(fd)
}

// TestFilesSwappedToTheDevice: the server's files in /run were swapped out to its own
// device when it is killed. The server that recovers the device must not need them.
func TestFilesSwappedToTheDevice(t *testing.T) {
	vmtest.NeedUblk(t)
	vmtest.NeedRoot(t)
	vmtest.OnOneKernel(t)
	rig.Guard(t, 4*time.Minute)
	d := tightDisk(t, 64)
	s := create(t, d, "--spare", "4MiB")
	group := memoryGroup(t)
	dir, err := os.Open(group)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dir.Close() }()
	cmd := exec.Command(vmtest.Binary(t), "start", d.Path)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	out, err := cmd.Output()
	s.Started(t, rig.Result{Command: cmd.String(), Stdout: string(out), Stderr: fmt.Sprint(err),
		Code: cmd.ProcessState.ExitCode()})
	swapoff := swapOn(t, s.Dev)
	defer swapoff()
	before := s.Status(t)
	for _, suffix := range []string{".json", ".log"} {
		pageOut(t, group, s.RunFile(suffix))
	}
	s.Kill(t)
	s.Started(t, rig.Launch(t, vmtest.Binary(t), s.StartLine()...).Wait(t, rig.Limit))
	if after := s.Status(t); after.UUID != before.UUID || after.ServerPID == before.ServerPID ||
		after.State != "live" {
		t.Errorf("after the recovery: %+v", after)
	}
	swapoff()
}
