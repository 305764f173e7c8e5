package guest

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

type mount struct {
	fstype, dir, data string
	flags             uintptr
	optional          bool
}

// mounts in the order in which they are made.
var mounts = []mount{
	{fstype: "proc", dir: "/proc"},
	{fstype: "sysfs", dir: "/sys"},
	{fstype: "devtmpfs", dir: "/dev"},
	{fstype: "devpts", dir: "/dev/pts", optional: true},
	{fstype: "tmpfs", dir: "/dev/shm"},
	{fstype: "tmpfs", dir: "/run"},
	{fstype: "debugfs", dir: "/sys/kernel/debug", optional: true},
	{fstype: "tracefs", dir: "/sys/kernel/tracing", optional: true},
	{fstype: "configfs", dir: "/sys/kernel/config", optional: true},
	{fstype: "cgroup2", dir: "/sys/fs/cgroup", optional: true},
}

func mountAll() error {
	// The root is a tmpfs that holds half of the memory unless told. /tmp is
	// part of it and not mounted upon: the tree under test may lie there.
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT, "size=90%"); err != nil {
		return fmt.Errorf("remount /: %w", err)
	}
	for _, m := range mounts {
		if err := os.MkdirAll(m.dir, 0o755); err != nil && !m.optional {
			return err
		}
		err := unix.Mount(m.fstype, m.dir, m.fstype, m.flags, m.data)
		if err != nil && !m.optional {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	for link, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, link); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// loopbackUp brings the interface lo up: tests of servers listen on 127.0.0.1.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}
