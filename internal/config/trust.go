package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links a path may lead through, as of the kernel.
const maxLinks = 40

// Trusted reports by an error whether somebody other than root and this user could have written a
// file or a directory, or put another one in its place. So it looks at each directory and each link
// on the way to it. The error is ErrRefused, or that of a system call.
func Trusted(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if err := trustedAt("/", unix.Stat); err != nil {
		return err
	}
	at, rest := "/", strings.Split(path, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, name)
		to, err := os.Readlink(next)
		if err != nil { // it is no link, or is not there: Stat tells
			if err := trustedAt(next, unix.Stat); err != nil {
				return err
			}
			at = next
			continue
		}
		if links++; links > maxLinks {
			return &os.PathError{Op: "stat", Path: path, Err: unix.ELOOP}
		}
		if err := trustedAt(next, unix.Lstat); err != nil {
			return err
		}
		if filepath.IsAbs(to) {
			at = "/"
		}
		rest = append(strings.Split(to, "/"), rest...)
	}
	return nil
}

// trustedAt checks owner and mode of a file, a directory or a link.
func trustedAt(path string, stat func(string, *unix.Stat_t) error) error {
	var st unix.Stat_t
	if err := stat(path, &st); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	kind := st.Mode & unix.S_IFMT
	// In a sticky directory nobody replaces what belongs to others. A link's mode means nothing.
	safe := kind == unix.S_IFDIR && st.Mode&unix.S_ISVTX != 0 || kind == unix.S_IFLNK
	switch {
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%s: %w: it belongs to user %d, who could have written anything there; "+
			"look into it, then: chown root: %s", path, ErrRefused, st.Uid, path)
	case st.Mode&0o022 != 0 && !safe:
		return fmt.Errorf("%s: %w: others than its owner may write to it (mode %04o); look into "+
			"it, then: chmod go-w %s", path, ErrRefused, st.Mode&0o7777, path)
	}
	return nil
}

// TrustedSecret is Trusted for a file that nobody but its owner and its group may read.
func TrustedSecret(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if mode := st.Mode().Perm(); mode&0o027 != 0 {
		return fmt.Errorf("%s: %w: others can read or write it (mode %04o), so it is no secret; "+
			"replace the secret if somebody may have read it, then: chmod 600 %s", path, ErrRefused,
			mode, path)
	}
	return Trusted(path)
}
