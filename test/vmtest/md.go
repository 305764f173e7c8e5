package vmtest

import (
	"fmt"
	"os"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// From include/uapi/linux/raid/md_u.h. Arrays without metadata on their members
// need nothing but these, as `mdadm --build` does it.
const (
	mdAddNewDisk   = 0x40140921
	mdSetArrayInfo = 0x40480923
	mdRunArray     = 0x400c0930
	mdStopArray    = 0x932

	mdClean      = 1           // MD_SB_CLEAN: nothing to bring into step first
	mdDiskInSync = 1<<1 | 1<<2 // active, in sync
)

// mdArray is mdu_array_info_t.
type mdArray struct {
	Major, Minor, Patch, CTime, Level, Size, Disks, RaidDisks, MDMinor, NotPersistent int32
	UTime, State, Active, Working, Failed, Spare, Layout, Chunk                       int32
}

// mdDisk is mdu_disk_info_t.
type mdDisk struct{ Number, Major, Minor, RaidDisk, State int32 }

// NewMirroredArray runs an MD array of level 1 over block devices, of which it takes
// size bytes each, and returns its path. It is stopped when the test ends.
func NewMirroredArray(t testing.TB, size int64, members ...string) string {
	t.Helper()
	Modprobe(t, "raid1")
	const minor = 99
	path := fmt.Sprintf("/dev/md%d", minor)
	if err := os.WriteFile("/sys/module/md_mod/parameters/new_array",
		fmt.Appendf(nil, "md%d", minor), 0o200); err != nil {
		t.Fatal(err)
	}
	var f *os.File
	var err error
	for deadline := time.Now().Add(10 * time.Second); f == nil; time.Sleep(time.Millisecond) {
		if f, err = os.OpenFile(path, os.O_RDWR, 0); err != nil && time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	ioctl := func(what string, cmd uintptr, arg unsafe.Pointer) {
		t.Helper()
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), cmd, uintptr(arg)); errno != 0 {
			t.Errorf("%s of %s: %v", what, path, errno)
		}
	}
	t.Cleanup(func() {
		if f, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
			t.Error(err)
			return
		}
		ioctl("STOP_ARRAY", mdStopArray, nil)
		_ = f.Close()
	})
	n := int32(len(members))
	array := mdArray{Level: 1, Size: int32(size >> 10), Disks: n, RaidDisks: n, MDMinor: minor,
		NotPersistent: 1, State: mdClean, Active: n, Working: n}
	ioctl("SET_ARRAY_INFO", mdSetArrayInfo, unsafe.Pointer(&array))
	for i, m := range members {
		var st unix.Stat_t
		if err := unix.Stat(m, &st); err != nil {
			t.Fatal(err)
		}
		disk := mdDisk{int32(i), int32(unix.Major(st.Rdev)), int32(unix.Minor(st.Rdev)), int32(i),
			mdDiskInSync}
		ioctl("ADD_NEW_DISK", mdAddNewDisk, unsafe.Pointer(&disk))
	}
	var param [3]int32 // mdu_param_t, of no meaning here
	ioctl("RUN_ARRAY", mdRunArray, unsafe.Pointer(&param))
	// A process that has it open for writing is a user of it.
	_ = f.Close()
	if t.Failed() {
		t.FailNow()
	}
	return path
}
