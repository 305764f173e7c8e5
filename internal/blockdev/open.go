package blockdev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Options say how a device is opened.
type Options struct {
	// ReadOnly opens for reading. Writes fail.
	ReadOnly bool
	// Shared opens without exclusive use, to look at a device that may be
	// live. Only with ReadOnly.
	Shared bool
	// Wait is how long to wait for a previous holder to let go, while it is
	// not a mount or another driver that holds the device. 0 does not wait.
	Wait time.Duration
	// Writers opens it although another process has it open for writing, or a loop device
	// that nobody uses is over it. A server that comes back to its own disk may do that. A verb
	// that puts a new use on a disk must not: a virtual machine on it, or a copy under way, has
	// it open without exclusive use.
	Writers bool
	// NoteLoss lets Open go on, and LostCache tell, if a flush failed at first and went well
	// then. Else that is an error.
	NoteLoss bool
}

// Device is an open backing or spare device. Its methods may be called from
// several goroutines; Close only when no other call is under way.
type Device struct {
	f     *os.File
	fd    int
	path  string
	geo   Geometry
	rdev  uint64
	block bool
	below []int // descriptors that keep others away from what a loop device is over
	lost  bool  // its cache, or a part of it, before it was opened
}

// retryEvery is how often a busy device is tried again.
const retryEvery = 20 * time.Millisecond

// Open opens the block device or regular file at path for direct I/O and
// reads its geometry. Unless Shared is asked for, the caller is its only user
// until Close. It returns ErrBusy when another user does not let go within
// o.Wait, ErrReadOnly, ErrNoDirectIO, ErrNotDevice or ErrAlignment as they
// say, and the error of the system call else, all wrapped with the path.
func Open(ctx context.Context, path string, o Options) (*Device, error) {
	if path == "" {
		return nil, fmt.Errorf("\"\": %w, but nothing", ErrNotDevice)
	}
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	deadline, passing := time.Now().Add(o.Wait), time.Now().Add(max(o.Wait, PassingWait))
	for {
		d, err := open(path, o)
		if err == nil || !errors.Is(err, ErrBusy) {
			return d, err
		}
		// A mount or a driver does not go away by waiting; a server that was
		// killed does, once its last I/O has ended, and a process that has it open.
		until, pause := deadline, retryEvery
		var written *writtenError
		if errors.As(err, &written) {
			until, pause = passing, passingPoll
		} else if Lasting(err) {
			return nil, err
		} else if users := withoutLoops(find(path, search{})); len(users) > 0 {
			return nil, &usedError{path, users}
		}
		if time.Now().After(until) {
			return nil, blame(path, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: %w", path, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// usedError is ErrBusy of a device that is in use by who does not go away by waiting.
type usedError struct {
	path  string
	users []User
}

func (e *usedError) Error() string {
	text := fmt.Sprintf("%v: %s", ErrBusy, Says(e.users))
	if e.path != "" {
		text = e.path + ": " + text
	}
	return text
}

func (e *usedError) Unwrap() error { return ErrBusy }

// Lasting reports whether an error of Open says that a device is in use by who does not go
// away by waiting, such as a mount.
func Lasting(err error) bool {
	var used *usedError
	return errors.As(err, &used)
}

// withoutLoops leaves out loop devices over a block device. That these are there keeps
// nobody from exclusive use; who uses them is another user.
func withoutLoops(users []User) []User {
	return slices.DeleteFunc(users, func(u User) bool { return u.Kind == UserLoop && !u.file })
}

// blame adds to an error who has the device open: one of them may have it exclusively.
func blame(path string, err error) error {
	var written *writtenError
	if users := UsersOf(path); len(users) > 0 && !errors.As(err, &written) {
		return fmt.Errorf("%w; it is %s", err, Says(users))
	}
	return err
}

// writtenError is ErrBusy of a device that others have open to write to it.
type writtenError struct{ users []User }

func (e *writtenError) Error() string { return fmt.Sprintf("%v: %s", ErrBusy, Says(e.users)) }
func (e *writtenError) Unwrap() error { return ErrBusy }

// unshared looks for users that exclusive use of a device does not keep away: loop devices over
// it or beside it, exports, and, without o.Writers, processes that can write to it. The caller
// has the device exclusively.
func unshared(path string, o Options) error {
	users := find(path, search{})
	if o.Writers {
		users = withoutLoops(users)
	}
	if len(users) > 0 {
		return &usedError{users: users}
	}
	if o.ReadOnly || o.Writers {
		return nil
	}
	users = slices.DeleteFunc(UsersOf(path), func(u User) bool { return !u.Writes })
	if len(users) > 0 {
		return &writtenError{users}
	}
	return nil
}

func open(path string, o Options) (*Device, error) {
	// What there is decides how it is opened: O_EXCL without O_CREAT means
	// something for block devices only, and the mere open of a pipe may wait for
	// ever. So it is got hold of first, without being opened, and then opened by
	// that handle: what lies at the path may have become something else.
	handle, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer func() { _ = unix.Close(handle) }()
	var st unix.Stat_t
	if err := unix.Fstat(handle, &st); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	kind := st.Mode & unix.S_IFMT
	switch {
	case kind != unix.S_IFBLK && kind != unix.S_IFREG:
		return nil, fmt.Errorf("%s: %w, but %s", path, ErrNotDevice, kindName(kind))
	case kind == unix.S_IFREG && st.Mode&0o222 == 0 && !o.ReadOnly:
		// Root could write it all the same. But somebody has made it read-only for everybody.
		return nil, fmt.Errorf("%s: %w: its mode is %04o", path, ErrReadOnly, st.Mode&0o7777)
	}
	flags := unix.O_RDWR | unix.O_DIRECT | unix.O_CLOEXEC
	if o.ReadOnly {
		flags = unix.O_RDONLY | unix.O_DIRECT | unix.O_CLOEXEC
	}
	if kind == unix.S_IFBLK && !o.Shared {
		flags |= unix.O_EXCL
	}
	same := fmt.Sprintf("/proc/self/fd/%d", handle)
	fd, err := unix.Open(same, flags, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("%s: %w by somebody else", path, ErrBusy)
	case errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) && kind == unix.S_IFBLK &&
		readable(same):
		// A block device that is read-only answers EACCES to a user who may read it.
		return nil, fmt.Errorf("%s: %w (%w)", path, ErrReadOnly, err)
	case errors.Is(err, unix.EINVAL):
		return nil, fmt.Errorf("%s: %w", path, ErrNoDirectIO)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	d := &Device{f: os.NewFile(uintptr(fd), path), fd: fd, path: path, block: kind == unix.S_IFBLK}
	if err := d.setup(&st, o); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), d.Close())
	}
	return d, nil
}

// kindName names what can be at a path.
func kindName(kind uint32) string {
	switch kind {
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFCHR:
		return "a character device"
	case unix.S_IFIFO:
		return "a pipe"
	case unix.S_IFSOCK:
		return "a socket"
	}
	return "something else"
}

// readable reports whether a block device can be opened to read it.
func readable(path string) bool {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		_ = unix.Close(fd)
	}
	return err == nil
}

func (d *Device) setup(before *unix.Stat_t, o Options) error {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != before.Mode&unix.S_IFMT || st.Rdev != before.Rdev {
		return ErrNotDevice
	}
	d.rdev = st.Rdev
	if !o.Shared {
		how := unix.LOCK_EX
		if o.ReadOnly {
			how = unix.LOCK_SH
		}
		var err error
		if d.block {
			d.below, err = lockBelow(d.rdev, how, 0)
		} else {
			err = lockFile(d.fd, how)
		}
		if err == nil && (!d.block || !o.ReadOnly) {
			err = unshared(d.path, o)
		}
		if err != nil {
			return err
		}
	}
	geo, err := geometryOf(d.f, &st)
	if err != nil {
		return err
	}
	if geo.ReadOnly && !o.ReadOnly {
		return ErrReadOnly
	}
	d.geo = geo
	if o.ReadOnly || o.Shared {
		return nil
	}
	return d.settle(o.NoteLoss)
}

// settleTries is how many flushes of a device may fail before it is not opened.
const settleTries = 3

// settle makes durable what a killed process has left in the device's cache, before anything is
// read that a write might rely on. Else a superblock could be read now and be lost at a power
// cut, while what was written because of it is there.
func (d *Device) settle(noteLoss bool) error {
	for try := 1; ; try++ {
		err := d.sync()
		if err == nil {
			return nil
		}
		if d.lost = true; !noteLoss || try == settleTries {
			return fmt.Errorf("flush: %w; what was written to it before may be lost: check the "+
				"disk, then try again", err)
		}
	}
}

// LostCache reports whether a flush failed when the device was opened: what was written before, and
// not flushed, may be lost.
func (d *Device) LostCache() bool { return d.lost }

func lockFile(fd, how int) error {
	err := unix.Flock(fd, how|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return fmt.Errorf("%w by somebody else", ErrBusy)
	case err != nil:
		return fmt.Errorf("lock: %w", err)
	}
	return nil
}

// Close lets the device go.
func (d *Device) Close() error {
	err := d.f.Close()
	for _, fd := range d.below {
		err = errors.Join(err, unix.Close(fd))
	}
	d.below = nil
	return err
}

// Path returns the absolute path the device was opened by.
func (d *Device) Path() string { return d.path }

// FD returns the open descriptor, which stays the Device's own.
func (d *Device) FD() int { return d.fd }

// File returns the open file, which stays the Device's own.
func (d *Device) File() *os.File { return d.f }

// IsBlock tells a block device from a regular file.
func (d *Device) IsBlock() bool { return d.block }

// Rdev returns the device number of a block device, 0 for a file.
func (d *Device) Rdev() uint64 {
	if !d.block {
		return 0
	}
	return d.rdev
}

// Geometry returns what the device says about itself, as it was at Open.
func (d *Device) Geometry() Geometry { return d.geo }

// Size returns the device's size in bytes.
func (d *Device) Size() int64 { return d.geo.Size }

// ReadAt reads len(p) bytes at off, whole or with an error. It takes any
// alignment; unaligned reads cost a copy.
func (d *Device) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > d.geo.Size {
		return 0, fmt.Errorf("%s: read at %d: %w", d.path, off, io.EOF)
	}
	short := false
	if rest := d.geo.Size - off; int64(len(p)) > rest {
		p, short = p[:rest], true
	}
	if len(p) == 0 {
		if short {
			return 0, io.EOF
		}
		return 0, nil
	}
	n, err := d.readAt(p, off)
	if err == nil && short {
		err = io.EOF
	}
	return n, err
}

func (d *Device) readAt(p []byte, off int64) (int, error) {
	if aligned(p, off, d.geo.LogicalBlock) {
		n, err := d.pread(p, off)
		return n, err
	}
	bs := int64(d.geo.LogicalBlock)
	first := off / bs * bs
	last := (off + int64(len(p)) + bs - 1) / bs * bs
	buf, err := Aligned(int(last - first))
	if err != nil {
		return 0, err
	}
	n, err := d.pread(buf, first)
	defer func() { _ = Free(buf) }() // it was mapped by Aligned
	n -= int(off - first)
	if n <= 0 {
		return 0, err
	}
	return copy(p, buf[off-first:int(off-first)+n]), err
}

func (d *Device) pread(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pread(d.fd, p[done:], off+int64(done))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return done, fmt.Errorf("%s: read %d bytes at %d: %w", d.path, len(p), off, err)
		}
		if n == 0 {
			return done, fmt.Errorf("%s: read at %d: %w", d.path, off+int64(done),
				io.ErrUnexpectedEOF)
		}
		done += n
	}
	return done, nil
}

// WriteAt writes p at off, whole or with an error. p, its length and off must
// be aligned: p to a page (see Aligned), the others to the logical block.
func (d *Device) WriteAt(p []byte, off int64) (int, error) {
	if !aligned(p, off, d.geo.LogicalBlock) {
		return 0, fmt.Errorf("%s: write %d bytes at %d: %w", d.path, len(p), off, ErrAlignment)
	}
	if off < 0 || off+int64(len(p)) > d.geo.Size {
		return 0, fmt.Errorf("%s: write %d bytes at %d: %w", d.path, len(p), off, unix.ENOSPC)
	}
	done := 0
	for done < len(p) {
		n, err := unix.Pwrite(d.fd, p[done:], off+int64(done))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			err = unix.EIO
		}
		if err != nil {
			return done, fmt.Errorf("%s: write %d bytes at %d: %w", d.path, len(p), off, err)
		}
		done += n
	}
	return done, nil
}

// Sync makes everything written so far durable. One that fails must not be called again
// in the hope of better: what the device could not write it may have dropped.
func (d *Device) Sync() error {
	if err := d.sync(); err != nil {
		return fmt.Errorf("%s: flush: %w", d.path, err)
	}
	return nil
}

func (d *Device) sync() error { return syncWith(d.fd, unix.Fdatasync) }

// syncWith flushes by a system call, which is called again only if it was interrupted: then
// it had not begun.
func syncWith(fd int, fdatasync func(fd int) error) error {
	for {
		if err := fdatasync(fd); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
