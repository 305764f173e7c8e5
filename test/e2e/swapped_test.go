package e2e

import (
	"encoding/binary"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// swapOn makes a device swap space, and returns what ends that, once.
func swapOn(t testing.TB, dev string) (off func()) {
	t.Helper()
	// A swap header: include/linux/swap.h, union swap_header.
	f := openUntilClosed(t, dev)
	header := aligned(4096)
	clear(header)
	binary.LittleEndian.PutUint32(header[1024:], 1)
	binary.LittleEndian.PutUint32(header[1028:], uint32(f.size/4096-1))
	copy(header[4096-10:], "SWAPSPACE2")
	if err := f.write(header, 0); err != nil {
		t.Fatal(err)
	}
	f.close()
	path, err := unix.BytePtrFromString(dev)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SWAPON, uintptr(unsafe.Pointer(path)), 0, 0); errno != 0 {
		t.Fatalf("swapon: %v", errno)
	}
	swapped := true
	return func() {
		if swapped {
			swapped = false
			if _, _, errno := unix.Syscall(unix.SYS_SWAPOFF, uintptr(unsafe.Pointer(path)), 0, 0); errno != 0 {
				t.Errorf("swapoff: %v", errno)
			}
		}
	}
}
