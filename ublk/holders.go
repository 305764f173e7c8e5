package ublk

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Holder is a process, a mount or a block device that keeps a device from being removed.
type Holder struct {
	PID     int    // 0 if the holder is not a process
	Command string // of the process
	Path    string // what it holds: the device's path, a mount point or another block device
}

// String describes the holder in a few words.
func (h Holder) String() string {
	if h.PID == 0 {
		return h.Path
	}
	return fmt.Sprintf("process %d (%s) with %s", h.PID, h.Command, h.Path)
}

// Holders looks for what holds a device: processes that have it, a partition of it or its server's
// end open, mounts of any namespace that it may see, and block devices on top. It finds only what
// this process may see. The list can be empty although there are holders.
func Holders(id int) []Holder {
	return holders(id, "/proc", "/sys/block")
}

func holders(id int, proc, sysBlock string) []Holder {
	var found []Holder
	processes, _ := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	for _, dir := range processes {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		fds, _ := os.ReadDir(filepath.Join(dir, "fd"))
		for _, fd := range fds {
			path, err := os.Readlink(filepath.Join(dir, "fd", fd.Name()))
			if err != nil || !belongsTo(path, id) {
				continue
			}
			comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
			found = append(found, Holder{PID: pid, Command: strings.TrimSpace(string(comm)),
				Path: path})
			break
		}
	}
	found = append(found, mountHolders(id, append([]string{filepath.Join(proc, "self")},
		processes...))...)
	tops, _ := os.ReadDir(filepath.Join(sysBlock, fmt.Sprintf("ublkb%d", id), "holders"))
	for _, t := range tops {
		found = append(found, Holder{Path: "block device " + t.Name()})
	}
	return found
}

// mountHolders looks for mounts in the mount namespaces of these processes, which are named by
// their directories in /proc. A server's own namespace has none.
func mountHolders(id int, processes []string) []Holder {
	var found []Holder
	seen := map[string]bool{}
	for _, dir := range processes {
		namespace, err := os.Readlink(filepath.Join(dir, "ns", "mnt"))
		if err != nil && dir != processes[0] || seen[namespace] {
			continue
		}
		seen[namespace] = true
		mounts, _ := os.ReadFile(filepath.Join(dir, "mountinfo"))
		for line := range strings.Lines(string(mounts)) {
			// proc_pid_mountinfo(5): the mount point is field 5. Type and source come after the
			// separator.
			head, tail, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
			fields, rest := strings.Fields(head), strings.Fields(tail)
			h := Holder{}
			if ok && len(fields) > 4 && len(rest) > 1 && belongsTo(rest[1], id) {
				h.Path = "a mount on " + fields[4]
			}
			if h.Path != "" && !slices.Contains(found, h) {
				found = append(found, h)
			}
		}
	}
	return found
}

// belongsTo reports whether path is one of the nodes of a device: /dev/ublkbN, /dev/ublkbNpM or
// /dev/ublkcN. The node may be deleted already.
func belongsTo(path string, id int) bool {
	path = strings.TrimSuffix(path, " (deleted)")
	name, ok := strings.CutPrefix(path, "/dev/ublk")
	if !ok || len(name) < 2 {
		return false
	}
	kind, number := name[0], name[1:]
	if kind != 'b' && kind != 'c' {
		return false
	}
	if kind == 'b' {
		number, _, _ = strings.Cut(number, "p")
	}
	n, err := strconv.Atoi(number)
	return err == nil && n == id
}

// Served reports whether anybody has the server's end of a device open. That can be a server that
// lives, wherever it runs, a server that is starting, or a server that died but whose last I/O has
// not ended. The kernel gives that end to one process at a time, so Served tries to open it. It
// tries for a second, because the kernel frees the end a little later than the process that had it
// closes it, and that process may have called Served too. This also works for servers of other pid
// namespaces, which can be seen in no other way. An error says that the answer could not be found
// out, for example because the node is not in this mount namespace. ErrNotFound says that there is
// no such device.
func Served(ctx context.Context, id int) (bool, error) {
	for deadline := time.Now().Add(servedWait); ; {
		fd, err := unix.Open(charPath(id), unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		switch {
		case err == nil:
			return false, unix.Close(fd)
		case err == unix.EBUSY && time.Now().After(deadline):
			return true, nil
		case err == unix.EBUSY:
		default:
			if _, statErr := os.Stat(filepath.Join(sysClassDir, fmt.Sprintf("%s%d", charPrefix,
				id))); os.IsNotExist(statErr) {
				return false, fmt.Errorf("ublk: device %d: %w", id, ErrNotFound)
			}
			return false, &os.PathError{Op: "open", Path: charPath(id), Err: err}
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-time.After(servedPoll):
		}
	}
}

const (
	servedWait = time.Second
	servedPoll = 10 * time.Millisecond
)
