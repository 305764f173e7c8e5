// Package mountinfo reads the mounts of a process's mount namespace, as
// /proc/PID/mountinfo lists them (proc_pid_mountinfo(5)), and undoes the escapes that this
// file and /proc/swaps share.
//
// It only reads text. The caller decides which mount matters.
//
// A line that makes no sense is left out and hides no other line. Lines can have any length.
// github.com/moby/sys/mountinfo is not used for these reasons: it gives up at the first line that
// it cannot parse, and stops without an error at a line of more than 64 KiB, which an overlay of
// many layers can have. If a mount is missed here, a disk in use is taken for free.
package mountinfo

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Self is the directory of the calling process.
const Self = "/proc/self"

// Mount is one line.
type Mount struct {
	Dev    uint64 // of the file system, as stat(2) tells it
	Root   string // the directory of the file system that is mounted
	Point  string // where it is mounted
	Type   string // of the file system
	Source string // what is mounted, as the file system calls it; may be empty
	// Options are those of the file system, with commas between them; may be empty.
	Options string
}

// Read lists the mounts that a process reaches. A mount comes before those on top of it. proc is
// its directory, such as Self.
func Read(proc string) ([]Mount, error) {
	text, err := os.ReadFile(filepath.Join(proc, "mountinfo"))
	if err != nil {
		return nil, err
	}
	return Parse(string(text)), nil
}

// Parse reads the text of a mountinfo. The third field is the device, the fourth the directory of
// the file system, the fifth the mount point. A variable number of fields follows, then a lone
// dash, the type, the source and the options of the file system.
func Parse(text string) []Mount {
	var all []Mount
	for line := range strings.Lines(text) {
		head, tail, ok := strings.Cut(line, " - ")
		fields, rest := strings.Fields(head), strings.Fields(tail)
		if !ok || len(fields) < 5 || len(rest) < 1 {
			continue
		}
		dev, ok := ParseDev(fields[2])
		if !ok {
			continue
		}
		m := Mount{Dev: dev, Root: Unescape(fields[3]), Point: Unescape(fields[4]),
			Type: Unescape(rest[0])}
		if len(rest) > 1 {
			m.Source = Unescape(rest[1])
		}
		if len(rest) > 2 {
			m.Options = Unescape(rest[2])
		}
		all = append(all, m)
	}
	return all
}

// ParseDev reads a device number as the kernel prints it, MAJOR:MINOR.
func ParseDev(text string) (dev uint64, ok bool) {
	major, minor, ok := strings.Cut(text, ":")
	a, errA := strconv.ParseUint(major, 10, 32)
	b, errB := strconv.ParseUint(minor, 10, 32)
	return unix.Mkdev(uint32(a), uint32(b)), ok && errA == nil && errB == nil
}

// Unescape undoes the escapes of mountinfo and swaps: \ooo, three octal digits. Other text stays as
// it is.
func Unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
