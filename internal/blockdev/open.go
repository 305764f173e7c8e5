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
	// Shared opens without exclusive use, to examine a device that may be live. Only with ReadOnly.
	Shared bool
	// Brief leaves out the limits of a block device, which are a file each in sysfs. The Geometry
	// then has no more than is needed to read. Only with ReadOnly.
	Brief bool
	// Wait is how long to wait for a previous holder to release the device, unless the holder is a
	// mount or another driver. 0 does not wait.
	Wait time.Duration
	// Writers opens the device although another process has it open for writing, or an unused loop
	// device is over it. A server that comes back to its own disk may do that. A verb that puts a
	// new use on a disk must not: a virtual machine on it, or a copy that is under way, has it open
	// without exclusive use.
	Writers bool
	// NoteLoss lets Open continue if a flush failed at first and then succeeded. LostCache then
	// tells it. Without NoteLoss that is an error.
	NoteLoss bool
}

// Device is an open backing or spare device. Several goroutines may call its methods. Close may be
// called only when no other call is under way.
type Device struct {
	f     *os.File
	fd    int
	path  string
	geo   Geometry
	rdev  uint64
	block bool
	below []int // descriptors that keep others away from what a loop device is over
	lost  bool  // its cache, or a part of it, was lost before it was opened
}

// retryEvery is how often a busy device is tried again.
const retryEvery = 20 * time.Millisecond

// Open opens the block device or regular file at path for direct I/O and reads its geometry. The
// caller is its only user until Close, unless it asks for Shared. Open returns ErrBusy when another
// user does not release the device within o.Wait. It returns ErrReadOnly, ErrNoDirectIO,
// ErrNotDevice, ErrAlignment or ErrProtective as they say, and otherwise the error of the system
// call. All are wrapped with the path.
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
		// Waiting does not end a mount or a driver. It does help with a server that was killed,
		// whose last I/O will end, and with a process that has the device open.
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

// usedError is ErrBusy of a device whose user does not end by waiting.
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

// Lasting reports whether an error of Open says that the device has a user that does not end by
// waiting, such as a mount.
func Lasting(err error) bool {
	var used *usedError
	return errors.As(err, &used)
}

// withoutLoops leaves out loop devices over a block device. The loop devices do not prevent
// exclusive use. Those who use them are users of their own.
func withoutLoops(users []User) []User {
	return slices.DeleteFunc(users, func(u User) bool { return u.Kind == UserLoop && !u.file })
}

// blame adds to an error which processes have the device open. One of them may have it exclusively.
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

// unshared looks for users that exclusive use of a device does not exclude: loop devices over it or
// beside it, exports, and, without o.Writers, processes that can write to it. The caller has the
// device exclusively.
func unshared(path string, o Options) error {
	users := find(path, search{exclusive: true})
	if o.Writers {
		users = withoutLoops(users)
	}
	if len(users) > 0 {
		return &usedError{users: users}
	}
	if o.ReadOnly || o.Writers {
		return nil
	}
	users = slices.DeleteFunc(OtherUsersOf(path), func(u User) bool { return !u.Writes })
	if len(users) > 0 {
		return &writtenError{users}
	}
	return nil
}

func open(path string, o Options) (*Device, error) {
	// The type of the file decides how it is opened. O_EXCL without O_CREAT has a meaning only for
	// block devices, and opening a pipe may wait for ever. So the path is opened with O_PATH first,
	// which does not open the file itself. The file is then opened by that handle, because the path
	// may lead to something else by now.
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
		// Root could write to it anyway. But somebody has made it read-only for everybody.
		return nil, fmt.Errorf("%s: %w: its mode is %04o", path, ErrReadOnly, st.Mode&0o7777)
	}
	if disk := protectiveOf(st.Rdev); kind == unix.S_IFBLK && disk != "" {
		return nil, fmt.Errorf("%s: %w: ublk-remap's metadata is on %s; name that", path,
			ErrProtective, disk)
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
		// A read-only block device returns EACCES to a user who may read it.
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

// kindName names the kinds of files that a path can lead to.
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

// readable reports whether a block device can be opened for reading.
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
	geo, err := geometryOf(d.f, &st, o.Brief)
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

const (
	// settleTries is how many flushes of a device may fail before it is not opened.
	settleTries = 3
	// settleResourcesFor is how long a flush is asked for that is not carried out for lack of
	// resources.
	settleResourcesFor = 30 * time.Second
	settlePause        = 100 * time.Millisecond
)

// settle makes durable what a killed process has left in the device's cache. It does so before
// anything is read that a write might rely on. Otherwise a superblock could be read now and be lost
// at a power cut, while a write that was made because of it survives.
func (d *Device) settle(noteLoss bool) error {
	return d.settleBy(d.sync, time.Sleep, noteLoss)
}

func (d *Device) settleBy(flush func() error, sleep func(time.Duration), noteLoss bool) error {
	var waited time.Duration
	for try := 1; ; try++ {
		err := flush()
		for ; lacksResources(err) && waited < settleResourcesFor; waited += settlePause {
			sleep(settlePause)
			err = flush()
		}
		switch {
		case err == nil:
			return nil
		case lacksResources(err):
			return fmt.Errorf("flush: %w; the machine lacks resources, usually memory; try again",
				err)
		}
		if d.lost = true; !noteLoss || try == settleTries {
			return fmt.Errorf("flush: %w; what was written to it before may be lost: check the "+
				"disk, then try again", err)
		}
	}
}

// lacksResources reports whether a flush was not carried out: the disk has dropped nothing, and the
// flush may be asked for again. These are the errnos of metadata.ClassResource.
func lacksResources(err error) bool {
	return errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EAGAIN)
}

// LostCache reports whether a flush failed when the device was opened. Then data that was written
// before, and not flushed, may be lost.
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

// Close releases the device.
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

// FD returns the open descriptor. It still belongs to the Device.
func (d *Device) FD() int { return d.fd }

// File returns the open file. It still belongs to the Device.
func (d *Device) File() *os.File { return d.f }

// IsBlock reports whether the device is a block device and not a regular file.
func (d *Device) IsBlock() bool { return d.block }

// Rdev returns the device number of a block device, or 0 for a file.
func (d *Device) Rdev() uint64 {
	if !d.block {
		return 0
	}
	return d.rdev
}

// Geometry returns what the device said about itself at Open.
func (d *Device) Geometry() Geometry { return d.geo }

// Size returns the device's size in bytes.
func (d *Device) Size() int64 { return d.geo.Size }

// ReadAt reads len(p) bytes at off, all of them or with an error. It accepts any alignment.
// Unaligned reads cost a copy.
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
	defer func() { _ = Free(buf) }() // Aligned has mapped it
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

// WriteAt writes p at off, all of it or with an error. p must be aligned to a page (see Aligned).
// Its length and off must be aligned to the logical block.
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
			err = unix.ENXIO // the device has no such place any more; EIO would blame the medium
		}
		if err != nil {
			return done, fmt.Errorf("%s: write %d bytes at %d: %w", d.path, len(p), off, err)
		}
		done += n
	}
	return done, nil
}

// Sync makes everything durable that was written so far. If it fails it must not be called again in
// the hope of success: the device may have dropped what it could not write.
func (d *Device) Sync() error {
	if err := d.sync(); err != nil {
		return fmt.Errorf("%s: flush: %w", d.path, err)
	}
	return nil
}

func (d *Device) sync() error { return syncWith(d.fd, unix.Fdatasync) }

// syncWith flushes by a system call. It repeats the call only if it was interrupted, because the
// flush had not begun then.
func syncWith(fd int, fdatasync func(fd int) error) error {
	for {
		if err := fdatasync(fd); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
