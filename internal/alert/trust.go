package alert

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ublkremap/internal/config"
)

// trusted reports by an error whether somebody other than root and this user could have written a
// file, or put another one in its place: what is run as root must be root's. The error is
// config.ErrRefused, or fs.ErrNotExist.
func trusted(path string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return notThere(path, err)
	}
	for _, p := range []string{real, filepath.Dir(real), filepath.Dir(path)} {
		var st unix.Stat_t
		if err := unix.Stat(p, &st); err != nil {
			return &os.PathError{Op: "stat", Path: p, Err: err}
		}
		switch {
		case st.Uid != 0 && int(st.Uid) != os.Geteuid():
			return fmt.Errorf("%s: %w: it belongs to user %d, so it is not used; look into it, "+
				"then: chown root: %s", p, config.ErrRefused, st.Uid, p)
		case st.Mode&0o022 != 0:
			return fmt.Errorf("%s: %w: it can be written by others than its owner, so it is not "+
				"used; look into it, then: chmod go-w %s", p, config.ErrRefused, p)
		}
	}
	return nil
}

// notThere says of a file that cannot be found whether it is a link that leads nowhere.
func notThere(path string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if to, linkErr := os.Readlink(path); linkErr == nil {
		return fmt.Errorf("%s: %w: it is a link to %s, which is not there", path,
			fs.ErrNotExist, to)
	}
	return fmt.Errorf("%s: %w", path, fs.ErrNotExist)
}

// maxSecret bounds a file with a secret, in bytes.
const maxSecret = 16 << 10

// readSecret reads a file that has one word. Nobody but its owner and its group may read it:
// whoever has the word can send what they like in this host's name.
func readSecret(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // opening a pipe would block
	if err != nil {
		return "", notThere(path, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	switch {
	case !st.Mode().IsRegular():
		return "", fmt.Errorf("%s: %w: it is not a regular file; put the secret into one", path,
			config.ErrInvalid)
	case st.Mode()&0o027 != 0:
		return "", fmt.Errorf("%s: %w: others can read or write it (mode %04o), so it is no "+
			"secret; get a new token if somebody may have read it, then: chmod 600 %s", path,
			config.ErrRefused, st.Mode().Perm(), path)
	}
	if err := trusted(path); err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", err
	}
	return oneWord(path, strings.TrimSpace(string(text)))
}

// oneWord refuses what cannot be sent in a header.
func oneWord(path, text string) (string, error) {
	notInWord := func(r rune) bool { return r <= ' ' || r > '~' }
	switch {
	case text == "":
		return "", fmt.Errorf("%s: %w: it is empty; write the token into it", path,
			config.ErrInvalid)
	case len(text) > maxSecret:
		return "", fmt.Errorf("%s: %w: it has more than %d bytes; want the token alone", path,
			config.ErrInvalid, maxSecret)
	case strings.ContainsRune(text, '\n'):
		return "", fmt.Errorf("%s: %w: it has more than one line; want the token alone, in one",
			path, config.ErrInvalid)
	case strings.ContainsFunc(text, notInWord):
		return "", fmt.Errorf("%s: %w: the token has blanks, or is not ASCII; want the token "+
			"alone, without a word such as Bearer before it", path, config.ErrInvalid)
	}
	return text, nil
}
