// Package companion is what ublk-remap and its second program, ublk-remap-monitor, both know: the
// verbs that the second program carries out, with their flags and help.
//
// A server's program is locked in memory as a whole, on each host that runs one. Libraries for
// people (metrics, terminals) are large, so they are in a program of their own. Users do not see
// that: ublk-remap parses the command line and shows the help, then replaces itself by the second
// program. Each verb has one file here. It declares a command, which gets what it does from the
// program: [Hand] in ublk-remap.
//
// This package imports no library that the second program exists for.
package companion

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"ublkremap/cmd/ublk-remap/internal/exit"
)

const (
	// Name is the name of the second program's file.
	Name = "ublk-remap-monitor"
	// packageDir is where packages install it. It is not in a PATH: nobody calls it by name.
	packageDir = "/usr/libexec/ublk-remap"
)

// Hand replaces this process by the second program. args are the arguments of this one, without its
// name. It returns only if that fails. The error is exit.ErrNotFound if the second program is not
// installed.
func Hand(args []string) error {
	path, err := program(os.Executable())
	if err != nil {
		return err
	}
	err = unix.Exec(path, append([]string{path}, args...), os.Environ())
	return &fs.PathError{Op: "exec", Path: path, Err: err}
}

// program returns the path of the second program. self is this one's, and err why it is not known.
// Only /proc tells. The error is exit.ErrUnsupported if there is none.
func program(self string, err error) (string, error) {
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w: /proc is not there, and this verb needs it; mount it: "+
			"mount -t proc proc /proc", exit.ErrUnsupported)
	}
	if err != nil {
		return "", err
	}
	return find(filepath.Dir(self), packageDir)
}

// find returns the path of the second program, in the first of these directories that has it. A
// file that is there but may not be run counts as the program, so that the error names it.
func find(dirs ...string) (string, error) {
	var looked error
	for _, dir := range dirs {
		path := filepath.Join(dir, Name)
		st, err := os.Stat(path)
		switch {
		case err == nil && st.Mode().IsRegular():
			return path, nil
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			looked = errors.Join(looked, err)
		}
	}
	if looked != nil {
		return "", looked
	}
	return "", fmt.Errorf("%s, the program that does this: %w in %s and in %s; install the "+
		"package, or put that program beside ublk-remap", Name, exit.ErrNotFound, dirs[0], dirs[1])
}
