package files

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// says checks what is told of a place, and that nothing of its device is proven to be free.
func says(t *testing.T, dev string, at int64, owner Owner, what string) {
	t.Helper()
	r := one(t, dev, rig.Extent{Start: at, Length: 4096})
	if r.Owner != owner || !strings.Contains(r.What, what) {
		t.Errorf("%s: byte %d: %+v, want %s %q", dev, at, r, owner, what)
	}
	p, err := Prove(context.Background(), Device{Path: dev, BlockSize: blockSize},
		[]Run{{0, uint64(vmtest.Sectors(t, dev)), "pending"}})
	must(t, err)
	defer p.Close()
	if len(p.Free) > 0 {
		t.Errorf("%s: %v are said to be free", dev, p.Free)
	}
}

// TestParts: a device that is a part of something is told as that, and none of it is free.
func TestParts(t *testing.T) {
	vmtest.NeedTools(t, "mkfs.ext4", "mke2fs", "mkfs.xfs", "xfs_db", "xfs_logprint", "mkswap",
		"swapon", "swapoff", "dmsetup", "mount", "debugfs", "dumpe2fs")
	needTime(t)
	const mib = 1 << 20
	loop := func(size int64) string { return vmtest.NewLoop(t, size, vmtest.LoopOptions{}) }
	t.Run("journal of ext4", func(t *testing.T) {
		journal, data := loop(32*mib), loop(64*mib)
		vmtest.Run(t, "mke2fs", "-q", "-F", "-b", "4096", "-O", "journal_dev", journal)
		vmtest.Run(t, "mkfs.ext4", "-q", "-F", "-b", "4096", "-J", "device="+journal, data)
		says(t, journal, 16*mib, OwnerMetadata, "journal of an ext4 on another device")
		dir := mountOn(t, "ext4", data)
		says(t, journal, 16*mib, OwnerMetadata, "journal of an ext4 on another device")
		// The other device is told as any ext4.
		path := filepath.Join(dir, "file")
		must(t, os.WriteFile(path, make([]byte, mib), 0o600))
		rig.SyncFS(t, dir)
		f, err := os.Open(path)
		must(t, err)
		at := rig.Extents(t, f, mib)[0]
		must(t, f.Close())
		at.Length = 4096
		if r := one(t, data, at); r.Owner != OwnerFile || r.Path != path {
			t.Errorf("%+v", r)
		}
		proves(t, data, "")
		must(t, unix.Unmount(dir, 0))
		if r := one(t, data, at); r.Owner != OwnerFile || r.Path != "/file" {
			t.Errorf("%+v", r)
		}
		proves(t, data, "")
	})
	t.Run("journal of xfs", func(t *testing.T) {
		journal, data := loop(64*mib), loop(400*mib)
		vmtest.Run(t, "mkfs.xfs", "-q", "-f", "-l", "logdev="+journal, data)
		says(t, journal, 16*mib, OwnerUnknown, "nothing that is known is on ")
		proves(t, data, "xfs_logprint") // its journal cannot be read without the other device
		dir := t.TempDir()
		must(t, unix.Mount(data, dir, "xfs", 0, "logdev="+journal))
		says(t, journal, 16*mib, OwnerMetadata, "journal")
		proves(t, data, "")
		must(t, unix.Unmount(dir, 0))
	})
	t.Run("realtime part of xfs", func(t *testing.T) {
		realtime, data := loop(128*mib), loop(400*mib)
		vmtest.Run(t, "mkfs.xfs", "-q", "-f", "-m", "rmapbt=0,reflink=0", "-d", "rtinherit=1",
			"-r", "rtdev="+realtime, data)
		dir := t.TempDir()
		err := unix.Mount(data, dir, "xfs", 0, "rtdev="+realtime)
		if errors.Is(err, unix.ENOSYS) && vmtest.UserMode() {
			t.Skip("this kernel has no realtime part of xfs: runs under Debian's kernels")
		}
		must(t, err)
		path := filepath.Join(dir, "file")
		must(t, os.WriteFile(path, make([]byte, 8*mib), 0o600))
		rig.SyncFS(t, dir)
		says(t, realtime, 4*mib, OwnerUnknown, "realtime part of xfs")
		// The file is in none of the blocks of the other device.
		for _, r := range ask(t, data, rig.Extent{Start: 0, Length: 400 * mib}).Rows {
			if r.Path == path {
				t.Errorf("%+v", r)
			}
		}
		must(t, unix.Unmount(dir, 0))
	})
	t.Run("swap", func(t *testing.T) {
		dev := loop(32 * mib)
		vmtest.Run(t, "mkswap", dev)
		says(t, dev, 16*mib, OwnerUnknown, "swap space that is not in use")
		vmtest.Run(t, "swapon", dev)
		says(t, dev, 16*mib, OwnerUnknown, "swap space that is in use")
		vmtest.Run(t, "swapoff", dev)
	})
	t.Run("encrypted", func(t *testing.T) {
		dev := loop(64 * mib)
		f, err := os.OpenFile(dev, os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteAt([]byte("LUKS\xba\xbe\x00\x02"), 0)
		must(t, errors.Join(err, f.Sync(), f.Close()))
		says(t, dev, 32*mib, OwnerUnknown, "not open")
		if !vmtest.UserMode() {
			return // the ciphers are in modules that are not on board
		}
		// Its data lies from 16 to 48 MiB, and is no file system.
		vmtest.NewDM(t, fmt.Sprintf("0 65536 crypt aes-xts-plain64 %s 0 %s 32768\n",
			strings.Repeat("0123456789abcdef", 8), dev))
		says(t, dev, 4*mib, OwnerMetadata, "header of an encrypted volume")
		says(t, dev, 32*mib, OwnerUnknown, "nothing that is known is on /dev/mapper/")
		says(t, dev, 56*mib, OwnerUnknown, "in no part of it that is open")
	})
}
