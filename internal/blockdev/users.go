package blockdev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Users says who uses the device or file at path, as far as the kernel tells:
// mounts, swap, drivers stacked on it, loop devices over a file, and for a
// disk the same of its partitions. Each is one phrase such as "mounted on
// /srv". It finds nothing for a device that another process holds open.
func Users(path string) []string {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		return append(loopUsers(&st), swapUsers(func(s *unix.Stat_t) bool {
			return s.Mode&unix.S_IFMT == unix.S_IFREG && s.Dev == st.Dev && s.Ino == st.Ino
		})...)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return nil
	}
	devs := map[uint64]string{st.Rdev: ""}
	for dev, name := range partitions(st.Rdev) {
		devs[dev] = name
	}
	var users []string
	users = append(users, mountUsers(devs)...)
	users = append(users, swapUsers(func(s *unix.Stat_t) bool {
		_, ok := devs[s.Rdev]
		return ok && s.Mode&unix.S_IFMT == unix.S_IFBLK
	})...)
	for dev, part := range devs {
		holders, _ := os.ReadDir(filepath.Join(sysDir(dev), "holders"))
		for _, h := range holders {
			users = append(users, with(part, "held by /dev/"+h.Name()))
		}
	}
	return users
}

// Claimed reports whether somebody has a block device for himself: a mount, also
// one in another mount namespace, swap, or a driver on top of it.
func Claimed(path string) bool {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil {
		_ = unix.Close(fd)
	}
	return errors.Is(err, unix.EBUSY)
}

func with(part, what string) string {
	if part == "" {
		return what
	}
	return fmt.Sprintf("partition /dev/%s is %s", part, what)
}

// partitions returns the partitions of a disk by device number.
func partitions(rdev uint64) map[uint64]string {
	found := map[uint64]string{}
	entries, _ := os.ReadDir(sysDir(rdev))
	for _, e := range entries {
		dir := filepath.Join(sysDir(rdev), e.Name())
		if _, err := os.Stat(filepath.Join(dir, "partition")); err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, "dev"))
		if err != nil {
			continue
		}
		if dev, ok := parseDev(strings.TrimSpace(string(b))); ok {
			found[dev] = e.Name()
		}
	}
	return found
}

func parseDev(s string) (uint64, bool) {
	major, minor, ok := strings.Cut(s, ":")
	if !ok {
		return 0, false
	}
	a, err1 := strconv.ParseUint(major, 10, 32)
	b, err2 := strconv.ParseUint(minor, 10, 32)
	if err1 != nil || err2 != nil {
		return 0, false
	}
	return unix.Mkdev(uint32(a), uint32(b)), true
}

// mountUsers finds the mounts of devices, in this process's mount namespace.
func mountUsers(devs map[uint64]string) []string {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var users []string
	for _, m := range parseMounts(string(text)) {
		part, hit := devs[m.dev]
		// File systems with devices of their own, such as btrfs, are found by
		// their source. Other paths than a device's are not touched: one on a
		// dead network would not come back.
		if !hit && strings.HasPrefix(m.source, "/dev/") {
			var st unix.Stat_t
			if unix.Stat(m.source, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
				part, hit = devs[st.Rdev]
			}
		}
		if hit {
			users = append(users, with(part, "mounted on "+m.point))
		}
	}
	return users
}

// mount is one line of mountinfo.
type mount struct {
	dev           uint64
	point, source string
}

// parseMounts reads /proc/PID/mountinfo (proc_pid_mountinfo(5)): the third field
// is the device, the fifth the mount point; the source is the second field
// behind a lone dash. Lines have no longest length, and those that make no sense
// are left out.
func parseMounts(text string) []mount {
	var all []mount
	for line := range strings.Lines(text) {
		head, tail, ok := strings.Cut(line, " - ")
		fields, rest := strings.Fields(head), strings.Fields(tail)
		if !ok || len(fields) < 5 || len(rest) < 2 {
			continue
		}
		if dev, ok := parseDev(fields[2]); ok {
			all = append(all, mount{dev, unescape(fields[4]), unescape(rest[1])})
		}
	}
	return all
}

// unescape undoes the \ooo escapes of mountinfo and swaps.
func unescape(s string) string {
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

func swapUsers(match func(*unix.Stat_t) bool) []string {
	b, err := os.ReadFile("/proc/swaps")
	if err != nil {
		return nil
	}
	var users []string
	for _, name := range parseSwaps(string(b)) {
		var st unix.Stat_t
		if unix.Stat(name, &st) == nil && match(&st) {
			users = append(users, "swap space "+name)
		}
	}
	return users
}

// parseSwaps reads /proc/swaps (proc_swaps(5)): a heading, then a path at the
// start of each line.
func parseSwaps(text string) []string {
	var names []string
	for i, line := range strings.Split(text, "\n") {
		if fields := strings.Fields(line); i > 0 && len(fields) > 0 {
			names = append(names, unescape(fields[0]))
		}
	}
	return names
}

// loopUsers finds loop devices over a regular file.
func loopUsers(file *unix.Stat_t) []string {
	var users []string
	for _, loop := range loopsOver(file) {
		users = append(users, "the file of "+loop)
	}
	return users
}
