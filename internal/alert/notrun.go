package alert

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// whyNotRun says in more words why a program did not run, and what to do. What the kernel says of a
// missing interpreter is what it says of a missing program. Errors of programs that did run are
// left as they are.
func whyNotRun(path string, err error) error {
	_, statErr := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && statErr != nil:
		return fs.ErrNotExist
	case errors.Is(err, fs.ErrNotExist):
		return missingInterpreter(path)
	case errors.Is(err, unix.ENOEXEC):
		return fmt.Errorf("it is no program that this machine runs; a script begins with a line "+
			"such as #!/bin/sh (%w)", unix.ENOEXEC)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("it may not be run: look at its file system (noexec), at the program "+
			"that its first line names, and for a security module (%w)", fs.ErrPermission)
	}
	return err
}

// trustedProgram is trusted for a program that is going to be run.
func trustedProgram(path string) error {
	if err := trusted(path); err != nil {
		return err
	}
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case !st.Mode().IsRegular():
		return fmt.Errorf("%s: it is not a regular file; want a program", path)
	case st.Mode()&0o111 == 0:
		return fmt.Errorf("%s: it is not executable; to change that: chmod +x %s", path, path)
	}
	if needs := interpreterOf(firstLine(path)); needs != "" {
		if _, err := os.Stat(needs); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %w", path, missingInterpreter(path))
		}
	}
	return nil
}

// missingInterpreter says what a program needs to be run, and is not there.
func missingInterpreter(path string) error {
	line := firstLine(path)
	switch {
	case !strings.HasPrefix(line, "#!"):
		return errors.New("the loader that it was built for is not there; use a build for this " +
			"system")
	case strings.HasSuffix(line, "\r"):
		return fmt.Errorf("its lines end as those of Windows; to change that: sed -i 's/\\r$//' %s",
			path)
	}
	return fmt.Errorf("its interpreter, %s, is not there; install that, or change the first line "+
		"of %s", interpreterOf(line), path)
}

// interpreterOf is the program that the first line of a script names; empty: it is no script.
func interpreterOf(line string) string {
	name, isScript := strings.CutPrefix(line, "#!")
	if !isScript {
		return ""
	}
	name = strings.TrimLeft(name, " \t")
	if i := strings.IndexAny(name, " \t"); i >= 0 {
		name = name[:i]
	}
	return name
}

// maxFirstLine is how much of a script's first line the kernel looks at.
const maxFirstLine = 256

func firstLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	text, _ := io.ReadAll(io.LimitReader(f, maxFirstLine)) // what could be read is the line
	line, _, _ := bytes.Cut(text, []byte{'\n'})
	return string(line)
}
