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

// needed are the kernel's file systems that a server still reads later.
var needed = []string{"/dev", "/proc", "/sys"}

// neededTypes are the types of file systems below those that stay mounted: single nodes of /dev in
// a container, and the limits of control groups.
var neededTypes = []string{"devtmpfs", "proc", "sysfs", "cgroup2"}

// Leave detaches all mounts in this process's namespace, which must be its own, except those that a
// server needs: /dev, /proc, /sys, and the mount of the directory dir, at their paths. dir must be
// absolute and exist. Directories in also stay, if they exist. The root and the working directory
// are an empty tmpfs afterwards. If Leave returns an error, the server can still serve.
// wrong; it is no reason not to serve.
func Leave(dir string, also ...string) error {
	kept, err := keep(append([]string{holder(dir), dir}, also...))
	if err != nil {
		return err
	}
	// The new root is made on top of dir, because dir is certain to exist.
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
	// Nothing may ever be made there.
	errs = append(errs, unix.Mount("none", "/", "",
		unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NOEXEC, ""))
	return errors.Join(errs...)
}

// holder returns the parent of dir, which stays as well, because other processes may remove dir and
// make it again. The root directory has no holder.
func holder(dir string) string {
	if parent := filepath.Dir(dir); parent != "/" {
		return parent
	}
	return dir
}

// kept is a mount or directory that stays.
type kept struct {
	path string
	tree int // a descriptor of a detached copy; -1: the mount itself is moved
}

// keep finds out what stays, and copies directories that are not mounts. Mounts are moved, not
// copied, so that the paths of files that are open on them stay visible from outside.
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
			continue // it stays as a part of another place
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

// into moves it into the new root, at the same path.
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

// become makes the mount at root the root, and removes the old root.
func become(root string) error {
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	// pivot_root(2): with "." for both, the old root is on top of the new one, and can be detached.
	if err := unix.PivotRoot(".", "."); err == nil {
		return errors.Join(unix.Unmount(".", unix.MNT_DETACH), unix.Chdir("/"))
	}
	// The root of an initramfs cannot be moved, and after chroot(2) the root is not a mount. In
	// these cases the other mounts are detached first, except the one that the new root is in. Then
	// the new root covers the old one.
	errs := []error{detachAll(func(m mountinfo.Mount) bool {
		return within(m.Point, root) || within(root, m.Point)
	})}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		// This process has it as its root already.
		errs = append(errs, fmt.Errorf("move the new root: %w", err))
	}
	errs = append(errs, unix.Chroot("."), unix.Chdir("/"))
	return errors.Join(errs...)
}

// prune detaches mounts that were moved together with a mount that stays.
func prune(list []kept) error {
	return detachAll(func(m mountinfo.Mount) bool {
		return m.Point == "/" || slices.Contains(neededTypes, m.Type) ||
			slices.ContainsFunc(list, func(k kept) bool { return k.path == m.Point })
	})
}

// detachAll detaches all mounts except those that stay, the last one first.
func detachAll(stays func(m mountinfo.Mount) bool) error {
	// The working directory is the new root, even if that is not yet the root.
	all, err := mountinfo.Read("proc/self")
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range slices.Backward(all) {
		if stays(m) {
			continue
		}
		// A mount below a detached one was detached with it.
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
