package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// DirEnv overrides the directory of the files. It is for tests.
const DirEnv = "UBLK_REMAP_ETC"

const (
	defaultDir = "/etc/ublk-remap"
	// suffix ends the name of a file. Other files in the directory are ignored.
	suffix = ".toml"
	// monitorFile does not end with that: a set can have any name.
	monitorFile = "monitor.conf"
	// maxFile bounds a file, in bytes.
	maxFile = 64 << 10
	// readTimeout is how long a read may take. The file may lie on the device whose server is about
	// to be started.
	readTimeout = 5 * time.Second
)

var (
	// ErrInvalid is wrapped by errors about the contents of a file.
	ErrInvalid = errors.New("configuration")
	// ErrName is returned for a set's name that cannot be the name of a file.
	ErrName = fmt.Errorf("%w: no name of a set", ErrInvalid)
	// ErrRefused is returned for a file that others than root could have written, and for a file
	// that belongs to another set.
	ErrRefused = errors.New("refused")
	// ErrSlow is returned for a file that cannot be read at the moment.
	ErrSlow = errors.New("the file cannot be read at the moment")
)

// Dir is where the files are.
func Dir() string {
	if d := os.Getenv(DirEnv); d != "" {
		return d
	}
	return defaultDir
}

// Path is the file of a set. The error is ErrName if the name would lead out of the directory.
func Path(name string) (string, error) {
	if name == "" || name[0] == '.' || strings.ContainsAny(name, "/\x00") {
		return "", fmt.Errorf("%q: %w", name, ErrName)
	}
	return filepath.Join(Dir(), name+suffix), nil
}

// NameOf is the set that a file is for.
func NameOf(path string) (string, error) {
	base := filepath.Base(path)
	name, ok := strings.CutSuffix(base, suffix)
	if !ok || name == "" || name[0] == '.' {
		return "", fmt.Errorf("%s: %w: the file of the set NAME is called NAME%s", path, ErrName,
			suffix)
	}
	return name, nil
}

// Names lists the sets that have a file, sorted. A missing directory is no error.
func Names() ([]string, error) {
	entries, err := os.ReadDir(Dir()) // sorted
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), suffix); ok && name != "" && name[0] != '.' {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, err
}

// File is a configuration that was read.
type File struct {
	Path string
	Name string // of the set
	// Settings are in the order of the file.
	Settings []Setting
}

// Setting is a key with its value.
type Setting struct {
	Key string
	// Texts is the value in the form of flags: one text, or the items of a List.
	Texts []string
	Kind  Kind
	// Line and Column say where the key is, counted from 1. Columns count bytes.
	Line, Column int
}

// Setting returns the setting of a key, or nil if the file does not have it.
func (f *File) Setting(key string) *Setting {
	if f == nil {
		return nil
	}
	for i := range f.Settings {
		if f.Settings[i].Key == key {
			return &f.Settings[i]
		}
	}
	return nil
}

// Read reads the file of a set. The error is fs.ErrNotExist if there is none, ErrRefused, ErrSlow,
// or a *Problem for a file that is not valid.
func Read(name string) (*File, error) {
	path, err := Path(name)
	if err != nil {
		return nil, err
	}
	return ReadFile(path)
}

// ReadFile is Read for a file in any directory. The file's name says which set it is for.
func ReadFile(path string) (*File, error) {
	name, err := NameOf(path)
	if err != nil {
		return nil, err
	}
	text, err := readInTime(path)
	if err != nil {
		return nil, err
	}
	f := &File{Path: path, Name: name}
	return f, f.parse(text)
}

// MonitorPath is the file of the monitor, which is of no set.
func MonitorPath() string { return filepath.Join(Dir(), monitorFile) }

// ReadMonitor is Read for the file of the monitor.
func ReadMonitor() (*File, error) { return ReadMonitorFile(MonitorPath()) }

// ReadMonitorFile is ReadMonitor for a file of any name.
func ReadMonitorFile(path string) (*File, error) {
	text, err := readInTime(path)
	if err != nil {
		return nil, err
	}
	f := &File{Path: path}
	return f, f.parse(text)
}

// readInTime reads a file. If that takes too long, it returns, and the read goes on in the
// background.
func readInTime(path string) ([]byte, error) {
	type content struct {
		text []byte
		err  error
	}
	came := make(chan content, 1)
	go func() {
		text, err := readTrusted(path)
		came <- content{text, err}
	}()
	select {
	case c := <-came:
		return c.text, c.err
	case <-time.After(readTimeout):
		return nil, fmt.Errorf("%s: %w: its file system may lie on a device without a server",
			path, ErrSlow)
	}
}

// readTrusted reads a file that only root and this process's user could have written.
func readTrusted(path string) ([]byte, error) {
	// If it is not there, opening it says so.
	if err := Trusted(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// Opening a pipe would block.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// What was opened may be another one than that which was looked at.
	err = trustedAt(path, func(_ string, st *unix.Stat_t) error {
		return unix.Fstat(int(f.Fd()), st)
	})
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w: it is not a regular file", path, ErrInvalid)
	}
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s: %w: it has more than %d bytes; a set needs a few lines", path,
			ErrInvalid, maxFile)
	}
	return text, err
}
