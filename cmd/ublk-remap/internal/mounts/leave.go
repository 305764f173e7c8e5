package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ublkremap/internal/mountinfo"
)

// needed are the kernel's file systems that a server reads later on.
var needed = []string{"/dev", "/proc", "/sys"}

// neededTypes are the types of what stays mounted beneath those: single nodes of /dev in a
// container, and the limits of control groups.
var neededTypes = []string{"devtmpfs", "proc", "sysfs", "cgroup2"}

// Leave detaches everything that is mounted in this process's namespace, which must be its
// own, but what a server needs: /dev, /proc, /sys, and what holds the directory dir,
// absolute and existing, at their paths. Directories in also stay, if they are there. The
// root and the working directory are an empty tmpfs afterwards. An error names what went
// wrong; it is no reason not to serve.
func Leave(dir string, also ...string) error {
	kept, err := keep(append([]string{holder(dir), dir}, also...))
	if err != nil {
		return err
	}
	// The new root is made on top of the directory itself: that is there for certain.
	root, err := filepath.EvalSymlinks(dir)
	if err == nil {
		err = unix.Mount("none", root, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=755,size=64k")
	}
	if err != nil {
		for _, k := range kept {
			if k.tree >= 0 {
				_ = unix.Close(k.tree)
			}
		}
		return fmt.Errorf("make an empty root: %w", err)
	}
	var errs []error
	for _, k := range kept {
		errs = append(errs, k.into(root))
	}
	errs = append(errs, become(root), prune(kept))
	// Nothing is ever to be made there.
	errs = append(errs, unix.Mount("none", "/", "",
		unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NOEXEC, ""))
	return errors.Join(errs...)
}

// holder is the directory that dir lies in, which stays as well: dir may be removed and
// made again by others. The root of everything is none.
func holder(dir string) string {
	if parent := filepath.Dir(dir); parent != "/" {
		return parent
	}
	return dir
}

// kept is a place that stays.
type kept struct {
	path string
	tree int // a descriptor of a detached copy; -1: the mount itself is moved
}

// keep says what stays, and copies what is no mount of its own. Mounts are moved rather
// than copied, so that the paths of what is open on them go on to be seen from outside.
func keep(places []string) ([]kept, error) {
	all, err := mountinfo.Read(mountinfo.Self)
	if err != nil {
		return nil, err
	}
	var list []kept
	for i, p := range append(slices.Clone(needed), places...) {
		real, err := filepath.EvalSymlinks(p)
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue
		case err != nil:
			return nil, fmt.Errorf("keep %s: %w", p, err)
		case !isMount(all, real) && slices.ContainsFunc(list,
			func(k kept) bool { return within(p, k.path) }):
			continue // it is there with what it lies in
		}
		k := kept{path: p, tree: -1}
		if i >= len(needed) || real != p || !isMount(all, p) {
			if k.tree, err = unix.OpenTree(unix.AT_FDCWD, real,
				unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC); err != nil {
				return nil, fmt.Errorf("keep %s: %w", p, err)
			}
		}
		list = append(list, k)
	}
	return list, nil
}

func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// into puts it into the new root, at its path.
func (k *kept) into(root string) error {
	to := filepath.Join(root, k.path)
	err := os.MkdirAll(to, 0o755)
	switch {
	case err != nil:
	case k.tree < 0:
		err = unix.Mount(k.path, to, "", unix.MS_MOVE, "")
	default:
		err = unix.MoveMount(k.tree, "", unix.AT_FDCWD, to, unix.MOVE_MOUNT_F_EMPTY_PATH)
	}
	if k.tree >= 0 {
		err = errors.Join(err, unix.Close(k.tree))
	}
	if err != nil {
		return fmt.Errorf("keep %s: %w", k.path, err)
	}
	return nil
}

// become makes the mount at root the root, and takes the old one away.
func become(root string) error {
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	// pivot_root(2): with "." for both, the old root lies on the new one, and goes.
	if err := unix.PivotRoot(".", "."); err == nil {
		return errors.Join(unix.Unmount(".", unix.MNT_DETACH), unix.Chdir("/"))
	}
	// An initramfs has no root that can be moved, and after chroot(2) the root is no mount:
	// what else is mounted goes first, but for what the new root lies in, then it covers
	// the old one.
	errs := []error{detachAll(func(m mountinfo.Mount) bool {
		return within(m.Point, root) || within(root, m.Point)
	})}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		// This process has it as its root anyway.
		errs = append(errs, fmt.Errorf("move the new root: %w", err))
	}
	errs = append(errs, unix.Chroot("."), unix.Chdir("/"))
	return errors.Join(errs...)
}

// prune detaches what came along with what was kept.
func prune(list []kept) error {
	return detachAll(func(m mountinfo.Mount) bool {
		return m.Point == "/" || slices.Contains(neededTypes, m.Type) ||
			slices.ContainsFunc(list, func(k kept) bool { return k.path == m.Point })
	})
}

// detachAll detaches all mounts but those that stay, the last one first.
func detachAll(stays func(m mountinfo.Mount) bool) error {
	// The working directory is the new root, whether or not that is the root yet.
	all, err := mountinfo.Read("proc/self")
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range slices.Backward(all) {
		if stays(m) {
			continue
		}
		// A mount beneath one that was detached went with it.
		if err := unix.Unmount(m.Point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil &&
			!errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("detach %s: %w", m.Point, err))
		}
	}
	return errors.Join(errs...)
}

func isMount(all []mountinfo.Mount, path string) bool {
	return slices.ContainsFunc(all, func(m mountinfo.Mount) bool { return m.Point == path })
}
