package blockdev

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ublkremap/internal/mountinfo"
)

// mounts finds the mounts of the devices in every mount namespace that a process of /proc is in. If
// a device is also mounted in this process's own namespace, only that mount is listed, because
// every namespace that was made since has a copy.
func (t *tree) mounts() []User {
	if !t.block && len(t.nodes) == 0 {
		return nil
	}
	users := t.mountsIn(mountinfo.Self)
	seen := map[string]bool{}
	if ns, err := os.Readlink("/proc/self/ns/mnt"); err == nil {
		seen[ns] = true
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		ns, err := os.Readlink(filepath.Join(dir, "ns/mnt"))
		if err != nil || seen[ns] {
			continue
		}
		seen[ns] = true
		for _, u := range t.mountsIn(dir) {
			known := slices.ContainsFunc(users, func(o User) bool {
				return o.Kind == UserMount && o.Device == u.Device
			})
			if known {
				continue
			}
			u.PID, _ = strconv.Atoi(filepath.Base(dir))
			u.Command = command(dir)
			users = append(users, u)
		}
	}
	return append(users, t.btrfs()...)
}

// mountsIn finds the mounts of one namespace. The process may end during the search.
func (t *tree) mountsIn(proc string) []User {
	all, err := mountinfo.Read(proc)
	if err != nil {
		return nil
	}
	var users []User
	for _, m := range all {
		n := t.nodes[m.Dev]
		// File systems with devices of their own, such as btrfs, are found by their source. Only
		// paths of devices are accessed: access to a path on a dead network would not return.
		if n == nil && unix.Major(m.Dev) == 0 && strings.HasPrefix(m.Source, "/dev/") {
			var st unix.Stat_t
			if unix.Stat(m.Source, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
				n = t.nodes[st.Rdev]
			}
		}
		if n != nil {
			users = append(users, n.user(UserMount, m.Point))
		}
	}
	return users
}

// btrfs finds the devices that are members of a mounted btrfs with several devices. Only one of
// them is the source of the mount (Documentation/ABI: /sys/fs/btrfs/UUID/devices has a link for
// each).
func (t *tree) btrfs() []User {
	links, _ := filepath.Glob("/sys/fs/btrfs/*-*/devices/*")
	var users []User
	for _, link := range links {
		dev, ok := devOf(link)
		if !ok || t.nodes[dev] == nil {
			continue
		}
		users = append(users, t.nodes[dev].user(UserHolder,
			"btrfs "+filepath.Base(filepath.Dir(filepath.Dir(link)))))
	}
	return users
}

// exports finds the devices that the kernel serves to a network. nvmet and LIO's file backstores
// open them, but not for exclusive use. Only the usual place of configfs is searched.
func (t *tree) exports() []User {
	const config = "/sys/kernel/config/"
	var users []User
	for _, pattern := range []string{
		config + "nvmet/subsystems/*/namespaces/*/device_path",
		config + "target/core/*/*/udev_path",
	} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			if enabled, err := os.ReadFile(filepath.Join(filepath.Dir(file),
				"enable")); err == nil && strings.TrimSpace(string(enabled)) == "0" {
				continue
			}
			b, err := os.ReadFile(file)
			path := strings.TrimSpace(string(b))
			var st unix.Stat_t
			if err != nil || !strings.HasPrefix(path, "/") || unix.Stat(path, &st) != nil {
				continue
			}
			if n := t.match(&st); n != nil {
				users = append(users, n.user(UserExport, strings.TrimPrefix(filepath.Dir(file),
					config)))
			}
		}
	}
	return users
}
