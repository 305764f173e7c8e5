// Package program has what is common to all who run another program: where it is, and what is kept
// of its output.
package program

import (
	"os/exec"
	"strings"
)

// Find returns the path of a program, or an error as of exec.LookPath. It also looks where root's
// programs are: the PATH of a service or of sudo can lack these directories.
func Find(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil || strings.Contains(name, "/") {
		return path, err
	}
	for _, dir := range []string{"/usr/sbin/", "/sbin/", "/usr/local/sbin/"} {
		if path, err := exec.LookPath(dir + name); err == nil {
			return path, nil
		}
	}
	return "", err
}

// Beginning is an io.Writer that keeps the first bytes that are written to it, and takes the rest.
// A program whose output it gets is not held up and takes no more than this memory.
type Beginning struct {
	most int
	kept []byte
}

// Keep returns a Beginning that keeps at most so many bytes.
func Keep(most int) *Beginning { return &Beginning{most: most} }

// Write keeps what there is room for. It takes all, and its error is nil.
func (b *Beginning) Write(p []byte) (int, error) {
	b.kept = append(b.kept, p[:min(len(p), b.most-len(b.kept))]...)
	return len(p), nil
}

// Bytes returns what was kept. It is valid until the next Write.
func (b *Beginning) Bytes() []byte { return b.kept }

// String returns what was kept.
func (b *Beginning) String() string { return string(b.kept) }
