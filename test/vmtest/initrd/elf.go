package initrd

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// ErrMissingLibrary is returned for a program that would not start on the
// host either.
var ErrMissingLibrary = errors.New("shared library not found")

// Needs returns the files that the program at path needs besides itself: for
// a dynamic ELF file its shared libraries and its loader, for a script its
// interpreter and what that needs, nothing for a static ELF file.
func Needs(path string) ([]string, error) {
	head, err := readHead(path)
	if err != nil {
		return nil, err
	}
	if interp, ok := shebang(head); ok {
		needs, err := Needs(interp)
		return append([]string{interp}, needs...), err
	}
	if !bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
		return nil, nil
	}
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	dynamic := slices.ContainsFunc(f.Progs,
		func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
	_ = f.Close()
	if !dynamic {
		return nil, nil
	}
	// The dynamic loader knows best where it looks; ldd asks it.
	out, err := exec.Command("ldd", path).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w: %s", path, err, bytes.TrimSpace(out))
	}
	libs, err := parseLdd(out)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return libs, nil
}

func readHead(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, 256)
	n, err := f.Read(head)
	if n == 0 && err != nil {
		return nil, nil // empty: nothing that could be run
	}
	return head[:n], nil
}

// shebang returns the interpreter of a script. For "#!/usr/bin/env bash" it
// is bash, wherever the host has it; env itself is a tool like any other.
func shebang(head []byte) (string, bool) {
	if !bytes.HasPrefix(head, []byte("#!")) {
		return "", false
	}
	line, _, _ := bytes.Cut(head[2:], []byte("\n"))
	f := strings.Fields(string(line))
	if len(f) == 0 {
		return "", false
	}
	if strings.HasSuffix(f[0], "/env") && len(f) > 1 {
		if p, err := findTool(f[1]); err == nil {
			return p, true
		}
	}
	return f[0], true
}

// parseLdd reads ldd's output: "name => /path (0x…)" for libraries, and
// "/path (0x…)" for the loader.
func parseLdd(out []byte) ([]string, error) {
	var libs []string
	s := bufio.NewScanner(bytes.NewReader(out))
	for s.Scan() {
		line := strings.TrimSpace(s.Text())
		if strings.HasSuffix(line, "=> not found") {
			return nil, fmt.Errorf("%w: %s", ErrMissingLibrary, line)
		}
		if _, right, ok := strings.Cut(line, "=> "); ok {
			line = right
		}
		p, _, _ := strings.Cut(line, " (")
		if strings.HasPrefix(p, "/") && !slices.Contains(libs, p) {
			libs = append(libs, p)
		}
	}
	return libs, s.Err()
}
