package files

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"ublkremap/internal/blockdev"
)

// Free space can be overwritten if it is proven to be free:
//
//   - The file system said so after the question was asked: a mounted one by GETFSMAP (ext4, xfs)
//     or LOGICAL_INO (btrfs), ext4 that is not mounted by its bitmaps, xfs that is not by both of
//     its trees of free space.
//   - What made the place free is durable, so that no crash brings back the file that had it. A
//     mounted file system is written out (syncfs) after it has answered. One that is mounted
//     read-only is not believed, as its journal may not have been replayed. One that is not mounted
//     must be clean.
//   - Nobody else changes a file system that is not mounted: its device is held exclusively from
//     before it is asked until [Proof.Close], and no process has it open to write. It is read anew:
//     what the kernel keeps of it in memory can be older than what the disk holds.
//   - The file system has found no error in itself.
//   - Nothing else is known to be at the place. What lies on a device can be reached by several
//     ways, such as a logical volume and its snapshot, and all of them must prove it free.
//
// A mounted file system can give the place to a file right after that. So whoever writes there must
// write only what is still pending or lost, in one step with the check of that, as a fill of the
// server does: a file's data that was written since has made the block neither. If that data is
// lost again before the fill, the block is bad in another way than before. So the fill must be
// about blocks that are bad as they were when the question was asked.

// Proof says which blocks are free.
type Proof struct {
	Free []Run // by block; they may be overwritten
	// Notes say why other free space is left as it is, one sentence each.
	Notes []string
	// Holds: it stays true until Close. Otherwise a mounted file system can use the blocks.
	Holds bool

	held []*os.File
}

// Prove says which of the blocks are free space that may be overwritten. The runs may come in any
// order and must not overlap. The caller calls Close when it has overwritten them. The error is
// that of the context, or that the device cannot be looked at.
func Prove(ctx context.Context, dev Device, runs []Run) (*Proof, error) {
	f := &finder{ctx: ctx, prove: true}
	runs = slices.Clone(runs)
	slices.SortFunc(runs, func(a, b Run) int { return cmp.Compare(a.Block, b.Block) })
	err := f.find(dev, runs)
	p := &Proof{Notes: f.notes, Holds: !f.moves, held: f.held}
	if err == nil && f.cut {
		err = context.Cause(ctx)
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	p.Free = freeBlocks(f.facts, dev.BlockSize)
	return p, nil
}

// freeBlocks returns the blocks about which all facts are proofs.
func freeBlocks(facts []placed, size int64) (free []Run) {
	var yes []piece
	var no, all []placed
	for _, p := range facts {
		if p.proven {
			yes = append(yes, piece{p.top, p.top, p.size})
		} else {
			no = append(no, p)
		}
	}
	for _, p := range without(yes, no) {
		all = append(all, placed{top: p.top, size: p.size})
	}
	for _, p := range joined(all) {
		first, end := (p.top+size-1)/size, (p.top+p.size)/size
		if first < end {
			free = append(free, Run{Block: uint64(first), Count: uint64(end - first)})
		}
	}
	return free
}

// Close ends the exclusive use of devices that [Prove] has begun.
func (p *Proof) Close() {
	for _, f := range p.held {
		_ = f.Close()
	}
	p.held = nil
}

// proven notes that the free places among facts may be overwritten.
func proven(facts []placed) {
	for i := range facts {
		facts[i].proven = facts[i].fact.Owner == OwnerFree
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
	proven(facts)
	v.moves = true
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

// errLarger: the device has shrunk, or is another one than the file system was made on.
var errLarger = errors.New("it is larger than its device")

// doubt returns why what lies on a device that is not mounted proves nothing. sound reads how many
// bytes it has, once nobody can change it any more.
func (f *finder) doubt(d node, sound func() (size int64, err error)) error {
	if err := f.hold(d); err != nil {
		return err
	}
	if err := f.refresh(); err != nil {
		return err
	}
	size, err := sound()
	if err == nil && size > d.size {
		err = errLarger
	}
	return err
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
