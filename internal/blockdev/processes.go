package blockdev

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ublkremap/internal/sysfs"
)

// processes finds the processes that have one of the devices, or the file, open. It leaves out this
// process. Each process is listed once for each device.
func (t *tree) processes() []User {
	self := strconv.Itoa(os.Getpid())
	procs, _ := filepath.Glob("/proc/[0-9]*")
	var users []User
	for _, proc := range procs {
		if filepath.Base(proc) != self {
			users = append(users, t.opened(proc)...)
		}
	}
	return users
}

// opened examines the descriptors of a process.
func (t *tree) opened(proc string) []User {
	dir := filepath.Join(proc, "fd")
	fds, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	at := map[*node]int{}
	var users []User
	for _, fd := range fds {
		path := filepath.Join(dir, fd.Name())
		st, ok := known(path)
		if !ok {
			continue
		}
		n := t.match(&st)
		if n == nil || provides(proc, &st) {
			continue
		}
		i, told := at[n]
		if !told {
			u := n.user(UserProcess, n.path)
			u.PID, _ = strconv.Atoi(filepath.Base(proc))
			u.Command = command(proc)
			i, at[n] = len(users), len(users)
			users = append(users, u)
		}
		users[i].Writes = users[i].Writes || writes(proc, fd.Name())
	}
	return users
}

// provides reports whether a process provides a network block device. nbd-client and similar
// programs keep the device open as long as it exists, and do not use its contents. The kernel says
// which thread that is (the attribute pid of drivers/block/nbd.c).
func provides(proc string, st *unix.Stat_t) bool {
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return false
	}
	pid, err := sysfs.Text(sysDir(wholeOf(st.Rdev)), "pid")
	if err != nil {
		return false
	}
	// A thread has a directory in /proc that a listing of /proc does not show.
	_, err = os.Stat(filepath.Join(proc, "task", pid))
	return err == nil
}

// known says what a descriptor leads to, from what the kernel has in memory. It does not ask about
// a file on a dead network.
func known(path string) (st unix.Stat_t, ok bool) {
	var x unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT,
		unix.STATX_TYPE|unix.STATX_INO, &x)
	if err != nil {
		return st, false
	}
	st.Mode = uint32(x.Mode)
	st.Dev, st.Ino = unix.Mkdev(x.Dev_major, x.Dev_minor), x.Ino
	st.Rdev = unix.Mkdev(x.Rdev_major, x.Rdev_minor)
	return st, true
}

// writes reports whether a descriptor was opened for writing (proc_pid_fdinfo(5)). It returns true
// if that is not known.
func writes(proc, fd string) bool {
	text, err := os.ReadFile(filepath.Join(proc, "fdinfo", fd))
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, err := strconv.ParseUint(strings.TrimSpace(value), 8, 64)
			return err != nil || flags&unix.O_ACCMODE != unix.O_RDONLY
		}
	}
	return true
}

// command returns a process's name, or "?" if it has ended.
func command(proc string) string {
	b, err := os.ReadFile(filepath.Join(proc, "comm"))
	if name := strings.TrimSpace(string(b)); err == nil && name != "" {
		return name
	}
	return "?"
}
