package alert

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"ublkremap/internal/config"
)

// trusted is config.Trusted, for what is run as root or is believed. The error is
// config.ErrRefused, or fs.ErrNotExist.
func trusted(path string) error {
	err := config.Trusted(path)
	if errors.Is(err, fs.ErrNotExist) {
		return notThere(path, err)
	}
	return err
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
	}
	if err := config.TrustedSecret(path); err != nil {
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
