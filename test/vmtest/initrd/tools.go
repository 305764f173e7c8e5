package initrd

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"ublkremap/test/vmtest/kernel"
)

// ErrNoTool is returned for a tool that the host does not have.
var ErrNoTool = errors.New("the host has no such tool")

// GuestTools is what a shell script in a guest may count on ("base" in a list
// of tools).
var GuestTools = strings.Fields(`
	sh bash awk basename blkdiscard blkid blockdev cat chmod cmp cp cut date dd df diff dirname
	dmesg dmsetup du e2fsck echo env expr fallocate fdisk find findmnt flock getconf grep head
	hexdump hostname id kill losetup ls lsblk md5sum mkdir mke2fs mkfifo mkfs.ext4 mknod
	mktemp mount mountpoint mv nproc od parted printf ps pwd readlink realpath rm rmdir sed seq
	setsid sfdisk sha256sum sleep sort split stat sync tail tee test time timeout touch tr true
	false truncate tune2fs umount uname uniq wc wipefs xargs`)

// fileSystems belong to "fs" in a list of tools.
var fileSystems = strings.Fields(
	`mkfs.ext4 e2fsck fsck.ext4 tune2fs dumpe2fs debugfs badblocks mkfs.xfs xfs_repair xfs_db
	xfs_logprint
	mkfs.btrfs btrfs mkfs.vfat mkswap swapon swapoff`)

// ExpandTools resolves the names of sets in a list of tools: "base"
// ([GuestTools]), "fs" (making and checking ext4 and xfs), "all" (both, and fio).
func ExpandTools(names []string) []string {
	var out []string
	for _, n := range names {
		switch n {
		case "":
		case "base":
			out = append(out, GuestTools...)
		case "fs":
			out = append(out, fileSystems...)
		case "all":
			out = append(append(append(out, GuestTools...), fileSystems...), "fio")
		default:
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// findTool returns the path of a program of the host, which may be outside
// the caller's PATH in one of the sbin directories.
func findTool(name string) (string, error) {
	if strings.Contains(name, "/") {
		return filepath.Abs(name)
	}
	if p, err := exec.LookPath(name); err == nil {
		return filepath.Abs(p)
	}
	for _, d := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		p := filepath.Join(d, name)
		if st, err := os.Stat(p); err == nil && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("%w: %s (scripts/deps installs what the tests use)", ErrNoTool, name)
}

// shellBuiltins may be missing as programs of their own.
var shellBuiltins = map[string]bool{"time": true, "echo": true, "pwd": true, "test": true,
	"kill": true, "printf": true}

// Tools returns an archive in cacheDir with the named tools and everything
// that they need. A name with a slash is a path on the host. The archive is
// rebuilt when a tool or the host's set of libraries has changed.
func Tools(cacheDir string, names []string) (string, error) {
	h := sha256.New()
	stamp(h, "/etc/ld.so.cache") // changes with every library that is installed
	var paths []string
	for _, n := range ExpandTools(names) {
		p, err := findTool(n)
		if err != nil {
			if shellBuiltins[n] {
				continue
			}
			return "", err
		}
		stamp(h, p)
		paths = append(paths, p)
	}
	return buildOnce(cacheDir, fmt.Sprintf("tools-%x.cpio", h.Sum(nil)[:12]),
		func(a *Archive) error {
			for _, p := range paths {
				if err := a.Program(p, p); err != nil {
					return err
				}
			}
			return nil
		})
}

// Program writes the program src at dst, and all that it needs.
func (a *Archive) Program(src, dst string) error {
	needs, err := Needs(src)
	if err != nil {
		return err
	}
	for _, n := range needs {
		if err := a.File(n, n); err != nil {
			return err
		}
	}
	return a.File(src, dst)
}

func stamp(h hash.Hash, p string) {
	if st, err := os.Stat(p); err == nil {
		_, _ = fmt.Fprintf(h, "%s %d %d\n", p, st.Size(), st.ModTime().UnixNano())
	}
}

// GuestModules are the modules that every guest has on board, with what they
// depend on; those that a kernel lacks are left out (asking for one in the
// guest then fails there, with its name).
var GuestModules = strings.Fields(`
	ublk_drv loop null_blk scsi_debug sd_mod brd virtio_blk virtio_scsi virtio_console
	dm_mod dm_flakey dm_log_writes dm_delay dm_dust dm_snapshot dm_thin_pool dm_integrity
	dm_zero dm_crypt zram raid1 ext4 quota_v2 xfs btrfs vfat nls_ascii nls_cp437 nls_iso8859_1
	overlay
	configfs fuse crc32c_intel crc32c_generic libcrc32c crc32c crct10dif_pclmul crc_t10dif loop`)

// Base returns an archive in cacheDir with a guest's directories, a few files
// in /etc, and the kernel's modules with their index.
func Base(cacheDir string, k *kernel.Kernel, extra []string) (string, error) {
	mods, err := kernel.ReadModules(k.ModuleDir)
	if err != nil {
		return "", err
	}
	var names []string
	for _, n := range GuestModules {
		if mods.Has(n) {
			names = append(names, n)
		}
	}
	files, err := mods.Closure(append(names, extra...)...)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "layout 2\n%s\n%q\n", k.Release, files)
	stamp(h, filepath.Join(k.ModuleDir, "modules.dep"))
	return buildOnce(cacheDir, fmt.Sprintf("base-%s-%x.cpio", k.Release, h.Sum(nil)[:12]),
		func(a *Archive) error {
			if err := a.Layout(); err != nil {
				return err
			}
			for name, contents := range etc {
				if err := a.Bytes(path.Join("/etc", name), 0o644, []byte(contents)); err != nil {
					return err
				}
			}
			if err := a.Symlink("/proc/self/mounts", "/etc/mtab"); err != nil {
				return err
			}
			dst := path.Join("/lib/modules", k.Release)
			for _, f := range append([]string{"modules.dep", "modules.builtin", "modules.alias"},
				files...) {
				if err := a.File(filepath.Join(k.ModuleDir, f), path.Join(dst, f)); err != nil {
					return err
				}
			}
			return nil
		})
}

// etc is what C libraries and tools look up.
var etc = map[string]string{
	"passwd":        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
	"group":         "root:x:0:\ndisk:x:6:\nnogroup:x:65534:\n",
	"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
	"hosts":         "127.0.0.1 localhost\n::1 localhost\n",
	"hostname":      "guest\n",
}
