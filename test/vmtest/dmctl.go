package vmtest

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// LogWritesTable is a dm-log-writes table: everything goes to dev, and what is
// written is logged on the device log. See package test/logwrites.
func LogWritesTable(t testing.TB, dev, log string) string {
	t.Helper()
	_ = modprobe("dm_log_writes")
	return fmt.Sprintf("0 %d log-writes %s %s\n", Sectors(t, dev), dev, log)
}

// Mark sends the message "mark TEXT" to a dm-log-writes device. It starts no program, unlike
// Message, so that a busy test can set many; it can be called by any goroutine.
func (d *DM) Mark(text string) error {
	if strings.ContainsAny(text, " \t\n\\") || text == "" {
		return fmt.Errorf("dm-log-writes: mark %q: %w", text, unix.EINVAL)
	}
	// struct dm_target_msg: the sector, then the message.
	return d.ioctl(14, 0, append(make([]byte, 8), "mark "+text+"\x00"...))
}

// Suspend makes I/O wait until Resume; I/O that has begun ends first.
func (d *DM) Suspend(t testing.TB) {
	t.Helper()
	// DM_SUSPEND_FLAG, DM_SKIP_LOCKFS_FLAG, DM_NOFLUSH_FLAG
	if err := d.ioctl(6, 1<<1|1<<10|1<<11, nil); err != nil {
		t.Fatal(err)
	}
}

// Resume undoes Suspend.
func (d *DM) Resume(t testing.TB) {
	t.Helper()
	if err := d.ioctl(6, 0, nil); err != nil {
		t.Fatal(err)
	}
}

// ioctl does a command of include/uapi/linux/dm-ioctl.h (its number in the enum
// of the DM_*_CMDs) to the device; data follows struct dm_ioctl.
func (d *DM) ioctl(cmd uintptr, flags uint32, data []byte) error {
	const (
		size     = 312 // of struct dm_ioctl
		nameAt   = 48
		nameMost = 128
		dataAt   = size + 8 // aligned for what has an u64 in it
	)
	if len(d.Name) >= nameMost {
		return fmt.Errorf("device mapper: %s: %w", d.Name, unix.ENAMETOOLONG)
	}
	buf := make([]byte, dataAt+len(data))
	le := binary.LittleEndian
	le.PutUint32(buf[0:], 4) // version 4.0.0
	le.PutUint32(buf[12:], uint32(len(buf)))
	le.PutUint32(buf[16:], dataAt)
	le.PutUint32(buf[28:], flags)
	copy(buf[nameAt:], d.Name)
	copy(buf[dataAt:], data)
	ctl, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = ctl.Close() }()
	// _IOWR(0xfd, cmd, struct dm_ioctl)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, ctl.Fd(), 3<<30|size<<16|0xfd<<8|cmd,
		uintptr(unsafe.Pointer(&buf[0])))
	if errno != 0 {
		return fmt.Errorf("device mapper: command %d on %s: %w", cmd, d.Name, errno)
	}
	return nil
}

// Remove takes the device down before the test ends. A process that has it open is
// waited for.
func (d *DM) Remove(t testing.TB) {
	t.Helper()
	if err := d.remove(); err != nil {
		t.Fatal(err)
	}
}
