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
)

// Text reads an attribute, without the white space around it. name may have slashes. The error is
// that of reading the file. The kernel gives one too if a driver has no value.
func Text(dir, name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	return strings.TrimSpace(string(b)), err
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
