package control

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// DirEnv overrides the runtime directory; it is for tests.
const DirEnv = "UBLK_REMAP_RUN"

const defaultDir = "/run/ublk-remap"

// Dir is the runtime directory.
func Dir() string {
	if d := os.Getenv(DirEnv); d != "" {
		return d
	}
	return defaultDir
}

// MakeDir makes sure that the runtime directory exists and that nobody else
// can get in.
func MakeDir() error {
	dir := Dir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	st, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return fmt.Errorf("%s: %w: not a directory", dir, ErrRefused)
	}
	if st.Mode().Perm() != 0o700 {
		return os.Chmod(dir, 0o700)
	}
	return nil
}

// SocketPath is where the server of a device listens.
func SocketPath(name string) string { return file(name, ".sock") }

// RecordPath is where a device's record is.
func RecordPath(name string) string { return file(name, ".json") }

// LogPath is where a detached server logs.
func LogPath(name string) string { return file(name, ".log") }

func file(name, suffix string) string {
	// A name comes from a superblock: it must not lead out of the directory.
	return filepath.Join(Dir(), strings.ReplaceAll(name, "/", "_")+suffix)
}

// Owner holds a device's name. The kernel lets it go when the process ends.
type Owner struct{ f *os.File }

// Own takes the name of a device for this process: ErrOwned if another server
// has it.
func Own(name string) (*Owner, error) {
	f, err := os.OpenFile(file(name, ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", name, ErrOwned)
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return &Owner{f: f}, nil
}

// Release lets the name go.
func (o *Owner) Release() error { return o.f.Close() }

// Owned reports whether a server that has the name lives.
func Owned(name string) bool {
	f, err := os.Open(file(name, ".lock"))
	if err != nil {
		return false
	}
	defer f.Close()
	// A shared lock, so that two that ask do not see each other as a server.
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}
