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

// A UserKind says in which way a device is in use.
type UserKind string

// The kinds. Those that the kernel lists come first, those that must be searched for come last.
const (
	UserMount   UserKind = "mount"   // a mounted file system, in any mount namespace
	UserSwap    UserKind = "swap"    // swap space
	UserHolder  UserKind = "holder"  // a driver on top, such as dm or MD
	UserLoop    UserKind = "loop"    // a loop device over it
	UserExport  UserKind = "export"  // a network target of the kernel (nvmet, LIO)
	UserProcess UserKind = "process" // a process that has it open
	UserKernel  UserKind = "kernel"  // an exclusive holder that is not visible
	UserUnknown UserKind = "unknown" // it could not be found out in time
)

// A User is one use of a device. A device on top of another one is a user of it, and so are the
// users of the one on top: a loop device and what is mounted from it are two Users.
type User struct {
	Kind UserKind
	// Device is what is used: the device that was asked about, a partition of it, or a
	// device on top of it.
	Device string
	// Path is the mount point, the swap space, the device on top, or what the process has open.
	Path string
	// PID and Command are those of the process. For a mount, PID is 0 unless the mount is in
	// another mount namespace. Then they are those of some process in that namespace.
	PID     int
	Command string
	// Writes says that the process can write to it.
	Writes bool

	part  bool // Device is a partition of what was asked about
	above bool // Device is another device, on top or beside
	file  bool // Device is a file
}

// String describes the use in a phrase that continues "it is", such as "mounted on /srv".
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

// Passing reports whether the use may end in a moment: a process has the device open, as udev does
// when it probes a new device. Other uses stay until somebody ends them.
func (u User) Passing() bool { return u.Kind == UserProcess }

// Says joins users to one phrase for a message. It counts the users that it leaves out.
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
	// findLimit bounds one search for users. A file of a loop device on a dead network, or a file
	// system that is being unmounted, can block it for ever.
	findLimit = 10 * time.Second
	// PassingWait is how long [Unused] waits for a process that has a device open.
	PassingWait = 3 * time.Second
	passingPoll = 100 * time.Millisecond
)

// UsersOf finds everybody except this process who uses the device or file at path: drivers and loop
// devices on top, also on partitions, and the users of those; mounts in every mount namespace that
// /proc shows; swap space; exports of the kernel's own targets; and processes that have it open.
// Uses that stay come first. It does not notice an exclusive holder that is not visible
// ([HeldExclusively]), because it does not open the device.
//
// For a device below a driver, such as the disk under a dm device, its loop devices are examined as
// well: they reach the same blocks.
//
// If the search takes too long the result is one user of kind unknown.
func UsersOf(path string) []User { return find(path, search{processes: true}) }

// OtherUsersOf is [UsersOf] for a caller that has the block device at path exclusively. It costs
// less, because what needs exclusive use as well is only searched for on devices beside it.
func OtherUsersOf(path string) []User {
	return find(path, search{processes: true, exclusive: true})
}

// Unused waits until nobody but this process uses a device, and returns the remaining users. It
// waits only for users that may end in a moment, and for PassingWait at most. look is UsersOf
// or a part of what it finds.
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

// search says what is searched for besides what lies on top of a device.
type search struct {
	processes bool
	// exclusive: the caller has the device exclusively. Then it can only be mounted, or be swap
	// space, through another device. The search for mounts reads a file of each mount namespace
	// of the machine, and each server has its own namespace.
	exclusive bool
}

// find searches for users in a goroutine of its own, so that it returns in time.
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
	users := t.stacked
	if !s.exclusive || !t.alone() {
		users = slices.Concat(t.mounts(), t.swaps(), users)
	}
	users = append(users, t.exports()...)
	if s.processes {
		users = append(users, t.processes()...)
	}
	return users
}

// HeldExclusively reports whether somebody has a block device open exclusively: a mount, also one
// in another mount namespace, swap, a driver on top of it, or a server.
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

// parseSwaps reads /proc/swaps (proc_swaps(5)): a heading, then lines that each start with a path.
func parseSwaps(text string) []string {
	var names []string
	for i, line := range strings.Split(text, "\n") {
		if fields := strings.Fields(line); i > 0 && len(fields) > 0 {
			names = append(names, mountinfo.Unescape(fields[0]))
		}
	}
	return names
}
