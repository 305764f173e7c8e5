package blockdev

import (
	"bufio"
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
	return unix.Mkdev(uint32(a), uint32(b)), err1 == nil && err2 == nil
}

// mountUsers reads /proc/self/mountinfo (proc(5)): the third field is the
// device, the fifth the mount point with octal escapes. File systems with
// devices of their own, such as btrfs, are found by their source.
func mountUsers(devs map[uint64]string) []string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	var users []string
	for sc := bufio.NewScanner(f); sc.Scan(); {
		fields := strings.Fields(sc.Text())
		if len(fields) < 10 {
			continue
		}
		dev, ok := parseDev(fields[2])
		part, hit := devs[dev]
		if !ok || !hit {
			hit = false
			for i, field := range fields {
				if field != "-" || i+2 >= len(fields) {
					continue
				}
				var st unix.Stat_t
				if src := unescape(fields[i+2]); strings.HasPrefix(src, "/") && unix.Stat(src, &st) == nil &&
					st.Mode&unix.S_IFMT == unix.S_IFBLK {
					part, hit = devs[st.Rdev]
				}
				break
			}
		}
		if hit {
			users = append(users, with(part, "mounted on "+unescape(fields[4])))
		}
	}
	return users
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
	for i, line := range strings.Split(string(b), "\n") {
		fields := strings.Fields(line)
		if i == 0 || len(fields) == 0 {
			continue
		}
		var st unix.Stat_t
		if name := unescape(fields[0]); unix.Stat(name, &st) == nil && match(&st) {
			users = append(users, "swap space "+name)
		}
	}
	return users
}

// loopUsers finds loop devices over a regular file.
func loopUsers(file *unix.Stat_t) []string {
	dirs, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	var users []string
	for _, name := range dirs {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(strings.TrimSpace(string(b)), &st) == nil && st.Dev == file.Dev && st.Ino == file.Ino {
			loop := filepath.Base(filepath.Dir(filepath.Dir(name)))
			users = append(users, "the file of /dev/"+loop)
		}
	}
	return users
}
