package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"ublkremap/internal/wholefile"
)

// Line is one line of a file that is to be written: a setting, or a comment if Key is empty.
type Line struct {
	Key, Comment string
	Kind         Kind
	Texts        []string
}

// Render makes the text of a file.
func Render(lines []Line) string {
	var b strings.Builder
	for _, l := range lines {
		switch {
		case l.Key != "":
			fmt.Fprintf(&b, "%s = %s\n", l.Key, literal(l.Kind, l.Texts))
		case l.Comment != "":
			fmt.Fprintf(&b, "# %s\n", l.Comment)
		default:
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// literal is a value as TOML.
func literal(kind Kind, texts []string) string {
	switch kind {
	case List:
		quoted := make([]string, len(texts))
		for i, text := range texts {
			quoted[i] = basic(text)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	case Text:
		return basic(texts[0])
	}
	return texts[0]
}

// basic is a basic string of TOML. It escapes the characters that such a string cannot contain.
func basic(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case !strconv.IsPrint(r):
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// Write makes the file of a set. When Write returns nil, the file is there, whole and durable.
// Otherwise there is no file. The error is fs.ErrExist if the set has a file already. made is the
// directory if Write had to make it, else empty.
func Write(name, text string) (made string, err error) {
	path, err := Path(name)
	if err != nil {
		return "", err
	}
	if _, err := os.Lstat(path); err == nil {
		return "", fmt.Errorf("%s: %w", path, fs.ErrExist)
	}
	dir := filepath.Dir(path)
	switch err := os.Mkdir(dir, 0o755); {
	case err == nil:
		made = dir
	case !errors.Is(err, fs.ErrExist):
		return "", err
	}
	err = write(path, text)
	if err != nil && made != "" {
		os.Remove(made)
		made = ""
	}
	return made, err
}

func write(path, text string) error {
	if err := Trusted(filepath.Dir(path)); err != nil {
		return err
	}
	// No file of a set begins with a point.
	return wholefile.Create(path, ".new-*", 0o644,
		func(w io.Writer) error { _, err := io.WriteString(w, text); return err })
}

// Remove removes the file of a set. A missing file is no error.
func Remove(name string) error {
	path, err := Path(name)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return wholefile.SyncDir(filepath.Dir(path))
}
