package files

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"ublkremap/internal/blockdev"
)

// Free space can be overwritten if it is proven to be free:
//
//   - The file system said so after the question was asked: a mounted one by GETFSMAP (ext4, xfs)
//     or LOGICAL_INO (btrfs), ext4 that is not mounted by its bitmaps.
//   - What made the place free is durable, so that no crash brings back the file that had it. A
//     mounted file system is written out (syncfs) after it has answered. One that is mounted
//     read-only is not believed, as its journal may not have been replayed. One that is not mounted
//     must be clean.
//   - Nobody else changes a file system that is not mounted: its device is held exclusively from
//     before its bitmaps are read until [Result.Close], and no process has it open to write.
//   - The file system has found no error in itself.
//
// A mounted file system can give the place to a file right after that. So whoever writes there must
// write only what is still pending or lost, in one step with the check of that, as a fill of the
// server does: a file's data that was written since has made the block neither.

// Prove is Find, and proves which of the free blocks may be overwritten: Result.Proven. The caller
// calls Result.Close when it has done so.
func Prove(ctx context.Context, dev Device, runs []Run) (*Result, error) {
	return find(ctx, dev, runs, true)
}

// Close ends the exclusive use of devices that [Prove] has begun.
func (r *Result) Close() {
	for _, f := range r.held {
		_ = f.Close()
	}
	r.held = nil
}

// proven notes that the free places among facts may be overwritten.
func (f *finder) proven(facts []placed) {
	for _, p := range facts {
		if p.fact.Owner == OwnerFree {
			f.proofs = append(f.proofs, placed{top: p.top, size: p.size})
		}
	}
}

// unproven says why free places are not overwritten.
func (f *finder) unproven(where string, err error) {
	f.notes = append(f.notes, fmt.Sprintf("%s: its free space is left as it is: %v", where, err))
}

// proveMounted proves the free places among facts, which a mounted file system has just told.
func (v *volume) proveMounted(facts []placed) {
	if !v.prove || len(facts) == 0 {
		return
	}
	if err := v.sound(); err != nil {
		v.unproven(v.fs, err)
		return
	}
	v.proven(facts)
}

// sound makes durable what a file system has said, and returns why it is not to be believed.
func (v *volume) sound() error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(v.root, &st); err != nil {
		return err
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return errors.New("it is mounted read-only")
	}
	if err := unix.Syncfs(v.root); err != nil {
		return fmt.Errorf("it cannot be written out: %w", err)
	}
	switch v.mount.Type {
	case "xfs", "btrfs":
		return nil
	case "ext2", "ext3", "ext4":
		name := filepath.Base(nodeName(v.dev))
		if number("/sys/fs/ext4/"+name, "errors_count") > 0 {
			return errors.New("it has found errors in itself: run e2fsck")
		}
		return nil
	}
	return errors.New(v.mount.Type + " does not tell what is free")
}

// nodeName returns the kernel's own name of a device.
func nodeName(dev uint64) string {
	target, _ := filepath.EvalSymlinks(sysDir(dev))
	return target
}

// hold takes a device that is not mounted for exclusive use.
func (f *finder) hold(d node) error {
	fd, err := unix.Open(d.path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("it is in use: %w", err)
	}
	f.held = append(f.held, os.NewFile(uintptr(fd), d.path))
	for _, u := range blockdev.UsersOf(d.path) {
		if u.Kind != blockdev.UserProcess || u.Writes {
			return errors.New("it is " + u.String())
		}
	}
	return nil
}
