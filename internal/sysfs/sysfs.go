// Package sysfs reads attributes of the kernel's sysfs: files that hold one short value each
// (Documentation/filesystems/sysfs.rst).
//
// It writes nothing, and knows no device. The caller says in which directory an attribute lies.
package sysfs

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxText is what the kernel shows of an attribute at most: a page.
const maxText = 4096

// Text reads an attribute, without the white space around it. name may have slashes. The error is
// that of reading the file, an *os.PathError. The kernel gives one too if a driver has no value.
//
// It takes half of the system calls that os.ReadFile takes: a search of all disks of a host reads
// several attributes of each.
func Text(dir, name string) (string, error) {
	path := filepath.Join(dir, name)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	var buf [maxText]byte
	n, err := unix.Read(fd, buf[:])
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Read(fd, buf[:])
	}
	if err != nil {
		return "", &os.PathError{Op: "read", Path: path, Err: err}
	}
	return strings.TrimSpace(string(buf[:n])), nil
}

// Lookup reads an attribute that is a number. ok is false if there is none.
func Lookup(dir, name string) (n int64, ok bool) {
	text, err := Text(dir, name)
	if err != nil {
		return 0, false
	}
	return parse(text)
}

// Int is Lookup, with 0 if there is no number.
func Int(dir, name string) int64 {
	if n, ok := Lookup(dir, name); ok {
		return n
	}
	return 0
}

// parse reads a number in the form that the kernel prints limits in. A limit without a bound is
// printed as an unsigned maximum.
func parse(text string) (n int64, ok bool) {
	n, err := strconv.ParseInt(text, 0, 64)
	if errors.Is(err, strconv.ErrRange) && n > 0 {
		return math.MaxInt64, true
	}
	return n, err == nil
}
