// Package logging makes the loggers of the command. They write to standard error, or for a detached
// server to a bounded file in the runtime directory, which is in memory. Messages for an operator
// are copied to the kernel's log. Neither log can wait for a disk.
package logging

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// Levels are the values of --log-level, Formats those of --log-format.
var (
	Levels  = []string{"trace", "debug", "info", "warn", "error", "disabled"}
	Formats = []string{"console", "json"}
)

// ErrFormat is returned for a level or format that does not exist.
var ErrFormat = errors.New("no such log level or format")

// New makes a logger that writes to w.
func New(w io.Writer, level, format string) (zerolog.Logger, error) {
	l, err := zerolog.ParseLevel(level)
	if err != nil || level == "" {
		return zerolog.Nop(), fmt.Errorf("%w: level %q; there are trace, debug, info, warn, "+
			"error and disabled", ErrFormat, level)
	}
	// Lines for Async have their format already.
	if _, ok := w.(*Async); !ok {
		if w, err = formatted(w, format); err != nil {
			return zerolog.Nop(), err
		}
	}
	return zerolog.New(w).Level(l).With().Timestamp().Logger(), nil
}

// formatted returns a writer that takes lines of JSON.
func formatted(w io.Writer, format string) (io.Writer, error) {
	switch format {
	case "console":
		return console(w), nil
	case "json":
		return w, nil
	}
	return nil, fmt.Errorf("%w: format %q; there are %q", ErrFormat, format, Formats)
}

// Foreground makes the writer for the log of a server in the foreground. The caller closes it.
func Foreground(w io.Writer, format string) (*Async, error) {
	w, err := formatted(w, format)
	if err != nil {
		return nil, err
	}
	return newAsync(w), nil
}

func console(w io.Writer) io.Writer {
	return zerolog.ConsoleWriter{Out: w, NoColor: !Colours(w),
		TimeFormat: "2006-01-02T15:04:05.000"}
}

// Colours reports whether an output takes colours: it is a terminal that can do more than a
// teletype, and nobody has asked for none (https://no-color.org), or somebody has asked for them
// wherever it goes, say through less -R (https://bixense.com/clicolors).
func Colours(w io.Writer) bool {
	switch force := os.Getenv("CLICOLOR_FORCE"); {
	case os.Getenv("NO_COLOR") != "":
		return false
	case force != "" && force != "0":
		return true
	case os.Getenv("CLICOLOR") == "0":
		return false
	}
	f, ok := w.(*os.File)
	term := os.Getenv("TERM")
	return ok && term != "" && term != "dumb" && Terminal(f)
}

// Terminal reports whether f is a terminal.
func Terminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// maxFile is the size at which a log file becomes the old one. At most two files are kept.
const maxFile = 1 << 20

// File is a log file of bounded size. When it is full it becomes the old file, and a new one
// begins.
type File struct {
	path, old string
	fresh     func() (*os.File, error)
	mu        sync.Mutex
	f         *os.File
	size      int64
}

// OpenFile opens the log file at path to append to it. fresh opens the file, and makes it if there
// is none. When it is full it is renamed to old.
func OpenFile(path, old string, fresh func() (*os.File, error)) (*File, error) {
	l := &File{path: path, old: old, fresh: fresh}
	return l, l.open()
}

func (l *File) open() error {
	f, err := l.fresh()
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.f, l.size = f, st.Size()
	return nil
}

// Write adds a line.
func (l *File) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > 0 && l.size+int64(len(p)) > maxFile {
		old := l.f
		if err := os.Rename(l.path, l.old); err != nil {
			return 0, err
		}
		if err := l.open(); err != nil {
			return 0, err
		}
		old.Close()
	}
	n, err := l.f.Write(p)
	l.size += int64(n)
	return n, err
}

// Close closes the file.
func (l *File) Close() error { return l.f.Close() }

// kernelLog passes lines of level warn and above to /dev/kmsg.
type kernelLog struct{ f *os.File }

// Detached makes the writer for the log of a detached server. All lines go to the file. Warnings
// and errors also go to the kernel's log, where the journal and dmesg show them. The caller closes
// it.
func Detached(file io.Writer) *Async {
	w := file
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		w = zerolog.MultiLevelWriter(file, &kernelLog{f})
	}
	return newAsync(w)
}

// Write is for lines without a level.
func (k *kernelLog) Write(p []byte) (int, error) { return len(p), nil }

// WriteLevel passes a line on. The kernel may refuse lines when there are too many. The file has
// them all.
func (k *kernelLog) WriteLevel(level zerolog.Level, p []byte) (int, error) {
	// Syslog levels: 3 is an error, 4 a warning (linux/kern_levels.h).
	number := 4
	switch {
	case level < zerolog.WarnLevel || level >= zerolog.NoLevel:
		return len(p), nil
	case level >= zerolog.ErrorLevel:
		number = 3
	}
	_, _ = fmt.Fprintf(k.f, "<%d>ublk-remap: %s", number, p[:min(len(p), 900)])
	return len(p), nil
}
