// Package wholefile writes files that appear under their name only once they are whole.
//
// Whoever opens the name sees all of the old file or all of the new one. This holds whenever the
// writer dies (the temporary file beside it may stay). It also holds after a power cut, because the
// contents are on the disk before the name is: without that, a file system may keep the rename and
// lose the contents, and an empty file is found. When Replace or Create returns nil, the file
// survives a power cut, because the directory was synced too.
//
// The library renameio leaves out that last step, and so does natefinch/atomic.
package wholefile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Replace writes the file at path, instead of the one that is there. Only its owner can read it.
//
// temporary is the pattern of the temporary file's name, as os.CreateTemp has it. With an error the
// old file is there, or the new one if only the sync of the directory failed.
func Replace(path, temporary string, write func(io.Writer) error) error {
	return put(path, temporary, private, true, write, os.Rename)
}

// Create makes the file at path with this mode. The error is fs.ErrExist if the name is taken; with
// any error there is no new file.
func Create(path, temporary string, mode fs.FileMode, write func(io.Writer) error) error {
	err := put(path, temporary, mode, true, write, renameNew)
	var late *syncError
	if errors.As(err, &late) {
		os.Remove(path)
	}
	return err
}

// ReplaceInMemory is Replace for a file system that a power cut empties anyway, such as that of
// /run. It syncs nothing.
func ReplaceInMemory(path, temporary string, write func(io.Writer) error) error {
	return put(path, temporary, private, false, write, os.Rename)
}

// private is the mode with which os.CreateTemp makes files.
const private fs.FileMode = 0o600

// syncError says that the file has its name, but may lose it.
type syncError struct{ error }

func (e *syncError) Unwrap() error { return e.error }

func put(path, temporary string, mode fs.FileMode, durable bool, write func(io.Writer) error,
	rename func(from, to string) error) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, temporary)
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil && mode != private { // vfat refuses every other mode than it has
		err = f.Chmod(mode)
	}
	if err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = rename(f.Name(), path)
	}
	switch {
	case err != nil:
		os.Remove(f.Name())
		return err
	case !durable:
		return nil
	}
	if err := SyncDir(dir); err != nil {
		return &syncError{err}
	}
	return nil
}

// renameNew gives a file a name that is not taken.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // not every file system has it
		if err = os.Link(from, to); err == nil {
			os.Remove(from)
		}
	}
	if err != nil {
		return &os.PathError{Op: "write", Path: to, Err: err}
	}
	return nil
}

// SyncDir makes the names in a directory durable. It does nothing on a file system that syncs no
// directories.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}
