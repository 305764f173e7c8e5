package control

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// DirEnv overrides the runtime directory. It is for tests.
const DirEnv = "UBLK_REMAP_RUN"

const defaultDir = "/run/ublk-remap"

// Dir is the runtime directory.
func Dir() string {
	if d := os.Getenv(DirEnv); d != "" {
		return d
	}
	return defaultDir
}

// MakeDir makes sure that the runtime directory exists and that nobody else has access. The error
// is ErrRefused if the directory is not ours: anybody could then write what is in it.
func MakeDir() error {
	dir := Dir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		if st, lstatErr := os.Lstat(dir); lstatErr == nil && !st.IsDir() {
			return trust(dir) // a file or a dangling link in its place
		}
		return err
	}
	if err := trust(dir); err != nil {
		return err
	}
	st, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if st.Mode().Perm() != 0o700 {
		return os.Chmod(dir, 0o700)
	}
	return nil
}

// trust checks that only root and this process's user could have put anything into the runtime
// directory. It tolerates a directory that others may read. It tolerates neither a directory that
// others may write to nor a link in its place: both let others choose what this program believes to
// be running. A missing directory is no error.
func trust(dir string) error {
	var st unix.Stat_t
	err := unix.Lstat(dir, &st)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return &os.PathError{Op: "lstat", Path: dir, Err: err}
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("%s: %w: it is not a directory; remove what is there", dir, ErrRefused)
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%s: %w: it belongs to user %d; remove it, or give it to root", dir,
			ErrRefused, st.Uid)
	case st.Mode&0o022 != 0:
		return fmt.Errorf("%s: %w: others may write there (mode %04o); look for what they left, "+
			"then: chmod 700 %s", dir, ErrRefused, st.Mode&0o7777, dir)
	}
	return nil
}

// open opens a file of the runtime directory. It does not follow a link, does not wait for the
// other end of a pipe, and refuses what is not a regular file.
func open(path string, flags int) (*os.File, error) {
	if err := trust(filepath.Dir(path)); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("%s: %w: it is a symbolic link; remove it", path, ErrRefused)
	case errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENXIO): // a directory, a socket
		return nil, fmt.Errorf("%s: %w: it is not a regular file; remove it", path, ErrRefused)
	case err != nil:
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w: it is not a regular file; remove it", path, ErrRefused)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// SocketPath is where the server of a device listens.
func SocketPath(name string) string { return file(name, ".sock") }

// RecordPath is the path of a device's record file.
func RecordPath(name string) string { return file(name, ".json") }

// LogPath is where a detached server logs.
func LogPath(name string) string { return file(name, ".log") }

func file(name, suffix string) string {
	// A name comes from a superblock. It must not lead out of the directory.
	return filepath.Join(Dir(), strings.ReplaceAll(name, "/", "_")+suffix)
}

// OpenLog opens the log of a device to append to it. It does not follow a link.
func OpenLog(name string) (*os.File, error) {
	return open(LogPath(name), os.O_WRONLY|os.O_CREATE|os.O_APPEND)
}

// OldLog is the path that a log is renamed to when it is full.
func OldLog(path string) string { return path + ".1" }

// Owner holds the lock on a device's name. The kernel releases it when the process ends.
type Owner struct {
	f    *os.File
	name string
}

// Own locks the name of a device for this process. The error is ErrOwned if another server has it.
func Own(name string) (*Owner, error) {
	for {
		f, err := open(lockPath(name), os.O_RDWR|os.O_CREATE)
		if err != nil {
			return nil, err
		}
		// This is a lock of the open file (OFD). A lock of flock can be tested only by taking it
		// for a moment, and a server that starts at that moment would see it. An OFD lock can be
		// tested without that.
		if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK,
			&unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
			f.Close()
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
				return nil, fmt.Errorf("%s: %w", name, ErrOwned)
			}
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		// The last owner may have removed the file meanwhile. Others then lock another file.
		if there(f, lockPath(name)) {
			return &Owner{f: f, name: name}, nil
		}
		f.Close()
	}
}

// there reports whether an open file is the one at path.
func there(f *os.File, path string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	st, err := os.Lstat(path)
	return err == nil && os.SameFile(mine, st)
}

func lockPath(name string) string { return file(name, ".lock") }

// Release releases the name.
func (o *Owner) Release() error { return o.f.Close() }

// Forget releases the name and removes what is left of it in the runtime directory: its lock, and
// if logs is set its logs. Its record file and socket must be removed before.
func (o *Owner) Forget(logs bool) error {
	paths := []string{lockPath(o.name)}
	if logs {
		// The lock is removed last. A file that is removed after it may belong to another server.
		paths = []string{OldLog(LogPath(o.name)), LogPath(o.name), lockPath(o.name)}
	}
	var errs []error
	for _, p := range paths {
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, o.Release())...)
}

// Owned reports whether a living server has the name.
func Owned(name string) bool {
	f, err := open(lockPath(name), os.O_RDONLY)
	if err != nil {
		return false
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_RDLCK}
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock) == nil && lock.Type != unix.F_UNLCK
}

// OwnedBy reports whether the server that has the name is the process pid: the name is Owned, and
// that process has the lock file open.
func OwnedBy(name string, pid int) bool {
	if pid <= 0 || !Owned(name) {
		return false
	}
	lock, err := os.Stat(lockPath(name))
	if err != nil {
		return false
	}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if st, err := os.Stat(fd); err == nil && os.SameFile(st, lock) {
			return true
		}
	}
	return false
}
