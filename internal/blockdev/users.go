package blockdev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/internal/mountinfo"
)

// A UserKind is a way in which a device can be in use.
type UserKind string

// The ways, from those that the kernel lists to those that must be looked for.
const (
	UserMount   UserKind = "mount"   // a mounted file system, in whatever mount namespace
	UserSwap    UserKind = "swap"    // swap space
	UserHolder  UserKind = "holder"  // a driver on top, such as dm or MD
	UserLoop    UserKind = "loop"    // a loop device over it
	UserExport  UserKind = "export"  // a network target of the kernel's (nvmet, LIO)
	UserProcess UserKind = "process" // a process that has it open
	UserKernel  UserKind = "kernel"  // an exclusive holder that cannot be seen
	UserUnknown UserKind = "unknown" // it could not be found out in time
)

// A User is one use of a device. A device on top of another one is a user of it, and so is what
// uses the one on top: a loop device and what is mounted from it are two Users.
type User struct {
	Kind UserKind
	// Device is what is used: the device that was asked about, a partition of it, or a
	// device on top of it.
	Device string
	// Path is the mount point, the swap space, the device on top, or what the process has open.
	Path string
	// PID and Command are those of the process; of a mount, 0 unless it is of another mount
	// namespace: then some process in that.
	PID     int
	Command string
	// Writes says that the process can write to it.
	Writes bool

	part  bool // Device is a partition of what was asked about
	above bool // Device is another device, on top or beside
	file  bool // Device is a file
}

// String says it in a phrase that goes on after "it is", such as "mounted on /srv".
func (u User) String() string {
	var what string
	switch u.Kind {
	case UserMount:
		what = "mounted on " + u.Path
		if u.PID != 0 {
			what += fmt.Sprintf(" in the mount namespace of process %d (%s)", u.PID, u.Command)
		}
	case UserSwap:
		what = "swap space " + u.Path
	case UserHolder:
		what = "held by " + u.Path
	case UserLoop:
		what = "the disk of " + u.Path
		if u.file {
			what = "the file of " + u.Path
		}
	case UserExport:
		what = "exported as " + u.Path
	case UserProcess:
		what = fmt.Sprintf("open in process %d (%s)", u.PID, u.Command)
	case UserKernel:
		return "in exclusive use by somebody who cannot be seen from here, such as a driver or a " +
			"file system of several disks"
	default:
		return "perhaps in use: who uses it could not be found out in time"
	}
	switch {
	case u.part:
		return fmt.Sprintf("of its partitions, %s is %s", u.Device, what)
	case u.above:
		return fmt.Sprintf("below %s, which is %s", u.Device, what)
	}
	return what
}

// Passing reports whether the use may be over in a moment: a process has the device open, which
// udev's probing of a new device also is. Other uses stay until somebody ends them.
func (u User) Passing() bool { return u.Kind == UserProcess }

// Says joins users to one phrase for a message. What is not said is counted.
func Says(users []User) string {
	const most = 4
	var all []string
	for _, u := range users {
		if s := u.String(); !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	if len(all) > most {
		return strings.Join(all[:most], ", ") + fmt.Sprintf(", and %d more", len(all)-most)
	}
	return strings.Join(all, ", ")
}

const (
	// findLimit bounds one search for users: a file of a loop device that lies on a dead
	// network, or a file system that is just being unmounted, can hold it up for ever.
	findLimit = 10 * time.Second
	// PassingWait is how long [Unused] waits for a process that has a device open.
	PassingWait = 3 * time.Second
	passingPoll = 100 * time.Millisecond
)

// Users finds everybody but this process who uses the device or file at path: drivers and
// loop devices on top, also on partitions, and in turn who uses those; mounts in every
// mount namespace that /proc shows; swap space; exports of the kernel's own targets;
// processes that have it open; and exclusive holders that cannot be seen, by trying to open it
// for exclusive use. Uses that stay come first.
//
// A device below a driver, such as the disk under a dm device, has its loop devices looked at
// as well: they reach the same blocks.
//
// It opens the device to try, which can wait if that does no I/O any more. If the search takes
// too long the answer is one user of kind unknown.
func Users(path string) []User { return find(path, search{processes: true, try: true}) }

// UsersOf is [Users] for a caller that has the device exclusively, or must not open it: an
// exclusive holder that cannot be seen is not noticed.
func UsersOf(path string) []User { return find(path, search{processes: true}) }

// Unused waits until nobody but this process uses a device, and returns the users that are left.
// It waits for users that may end in a moment only, and not longer than PassingWait. look is
// Users, UsersOf or a part of what these find.
func Unused(ctx context.Context, path string, look func(string) []User) []User {
	for deadline := time.Now().Add(PassingWait); ; {
		users := look(path)
		stays := slices.ContainsFunc(users, func(u User) bool { return !u.Passing() })
		if len(users) == 0 || stays || time.Now().After(deadline) {
			return users
		}
		select {
		case <-ctx.Done():
			return users
		case <-time.After(passingPoll):
		}
	}
}

// search says what is looked for besides what lies on top of a device.
type search struct {
	processes bool
	try       bool // open it for exclusive use
}

// find looks for users in a goroutine of its own, so that it comes back.
func find(path string, s search) []User {
	found := make(chan []User, 1)
	go func() { found <- look(path, s) }()
	select {
	case users := <-found:
		return users
	case <-time.After(findLimit):
		return []User{{Kind: UserUnknown, Device: path}}
	}
}

func look(path string, s search) []User {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil
	}
	t := newTree(path, &st)
	if t == nil {
		return nil
	}
	users := slices.Concat(t.mounts(), t.swaps(), t.stacked, t.exports())
	if s.try && t.block && len(users) == 0 && HeldExclusively(path) {
		users = append(users, User{Kind: UserKernel, Device: path})
	}
	if s.processes {
		users = append(users, t.processes()...)
	}
	return users
}

// HeldExclusively reports whether somebody has a block device open exclusively: a mount, also
// one in another mount namespace, swap, a driver on top of it, or a server.
func HeldExclusively(path string) bool {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil {
		_ = unix.Close(fd)
	}
	return errors.Is(err, unix.EBUSY)
}

// swaps finds swap space on the devices, or in the file.
func (t *tree) swaps() []User {
	b, err := os.ReadFile("/proc/swaps")
	if err != nil {
		return nil
	}
	var users []User
	for _, name := range parseSwaps(string(b)) {
		var st unix.Stat_t
		if unix.Stat(name, &st) != nil {
			continue
		}
		if n := t.match(&st); n != nil {
			users = append(users, n.user(UserSwap, name))
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
			names = append(names, mountinfo.Unescape(fields[0]))
		}
	}
	return names
}
