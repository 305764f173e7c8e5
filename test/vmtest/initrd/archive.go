package initrd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/cavaliergopher/cpio"
)

// Archive writes one cpio archive. Directories that lead to a file are
// written as needed; a path that was written already is not written again,
// so the first wins. It is not safe for concurrent use.
type Archive struct {
	w    *cpio.Writer
	seen map[string]bool
}

// mergedUsr are the directories that are links into /usr in every guest.
var mergedUsr = []string{"bin", "sbin", "lib", "lib64"}

// NewArchive starts an archive on w.
func NewArchive(w io.Writer) *Archive {
	return &Archive{w: cpio.NewWriter(w), seen: map[string]bool{"/": true}}
}

// Close writes the archive's trailer; it does not close the writer below.
func (a *Archive) Close() error { return a.w.Close() }

// Canonical is the place of an absolute path in a guest: /bin/sh is /usr/bin/sh.
func Canonical(p string) string {
	p = path.Clean("/" + p)
	for _, d := range mergedUsr {
		if p == "/"+d || strings.HasPrefix(p, "/"+d+"/") {
			return "/usr" + p
		}
	}
	return p
}

// Layout writes the directories and links that every guest has.
func (a *Archive) Layout() error {
	for _, d := range mergedUsr {
		if err := a.Dir("/usr/"+d, 0o755); err != nil {
			return err
		}
		if err := a.symlink("usr/"+d, "/"+d); err != nil {
			return err
		}
	}
	for _, d := range []string{"/dev", "/proc", "/sys", "/run", "/etc", "/var", "/root", "/mnt",
		"/usr/local/bin", "/usr/local/sbin"} {
		if err := a.Dir(d, 0o755); err != nil {
			return err
		}
	}
	return a.Dir("/tmp", fs.ModeSticky|0o777)
}

// Dir writes a directory and those above it.
func (a *Archive) Dir(p string, perm fs.FileMode) error {
	p = Canonical(p)
	if a.seen[p] {
		return nil
	}
	if err := a.Dir(path.Dir(p), 0o755); err != nil {
		return err
	}
	a.seen[p] = true
	mode := cpio.TypeDir | cpio.FileMode(perm.Perm())
	if perm&fs.ModeSticky != 0 {
		mode |= cpio.ModeSticky
	}
	return a.w.WriteHeader(&cpio.Header{Name: p[1:], Mode: mode, Links: 2})
}

// Symlink writes a link at p that points to target.
func (a *Archive) Symlink(target, p string) error { return a.symlink(target, Canonical(p)) }

func (a *Archive) symlink(target, p string) error {
	if a.seen[p] {
		return nil
	}
	if err := a.Dir(path.Dir(p), 0o755); err != nil {
		return err
	}
	a.seen[p] = true
	if err := a.w.WriteHeader(&cpio.Header{Name: p[1:], Mode: cpio.TypeSymlink | 0o777, Links: 1,
		Size: int64(len(target))}); err != nil {
		return err
	}
	_, err := io.WriteString(a.w, target)
	return err
}

// Bytes writes a regular file with these contents.
func (a *Archive) Bytes(p string, perm fs.FileMode, contents []byte) error {
	return a.reader(p, perm, int64(len(contents)), strings.NewReader(string(contents)))
}

func (a *Archive) reader(p string, perm fs.FileMode, size int64, r io.Reader) error {
	p = Canonical(p)
	if a.seen[p] {
		return nil
	}
	if err := a.Dir(path.Dir(p), 0o755); err != nil {
		return err
	}
	a.seen[p] = true
	if err := a.w.WriteHeader(&cpio.Header{Name: p[1:],
		Mode: cpio.TypeReg | cpio.FileMode(perm.Perm()), Links: 1, Size: size}); err != nil {
		return err
	}
	n, err := io.Copy(a.w, io.LimitReader(r, size))
	if err == nil && n != size {
		err = fmt.Errorf("%s shrank from %d to %d bytes while it was packed", p, size, n)
	}
	return err
}

// File writes the regular file src, or what it links to, at dst.
func (a *Archive) File(src, dst string) error {
	f, err := os.Open(src)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s: not a regular file", src)
	}
	// newc has 32 bits for a size (Documentation/driver-api/early-userspace/buffer-format.rst).
	if st.Size() >= 1<<32 {
		return fmt.Errorf("%s: %d bytes do not fit into an initramfs; pass it as a disk", src,
			st.Size())
	}
	return a.reader(dst, st.Mode(), st.Size(), f)
}

// Tree writes src at dst: a file, or a directory with everything in it.
// Links inside are kept as links; src itself is followed.
func (a *Archive) Tree(src, dst string) error {
	st, err := os.Stat(src)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return a.File(src, dst)
	}
	root, err := filepath.EvalSymlinks(src)
	if err != nil {
		return err
	}
	return filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		to := path.Join(dst, rel)
		switch {
		case d.IsDir():
			return a.Dir(to, 0o755)
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			return a.Symlink(target, to)
		case d.Type().IsRegular():
			return a.File(p, to)
		}
		return nil // sockets, devices: nothing that a test's data would be
	})
}

// Concat writes the archives one after the other to w, each padded to the
// four bytes that the kernel aligns to.
func Concat(w io.Writer, archives ...string) error {
	for _, name := range archives {
		if err := appendFile(w, name); err != nil {
			return err
		}
	}
	return nil
}

func appendFile(w io.Writer, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	n, err := io.Copy(w, f)
	if err != nil {
		return err
	}
	_, err = w.Write(make([]byte, (4-n%4)%4))
	return err
}

// buildOnce returns dir/name, and builds it first if it is missing. Processes
// that build the same file at once each write their own and rename it; the
// last wins, with the same contents.
func buildOnce(dir, name string, fill func(*Archive) error) (string, error) {
	final := filepath.Join(dir, name)
	if _, err := os.Stat(final); err == nil {
		return final, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.CreateTemp(dir, "tmp-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	a := NewArchive(tmp)
	err = fill(a)
	if err == nil {
		err = a.Close()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return "", err
	}
	return final, os.Rename(tmp.Name(), final)
}
