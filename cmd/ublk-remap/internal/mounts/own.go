package mounts

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ownEnv passes the result of Own through the exec: the name of the namespace and, after a space,
// what went wrong, if anything did.
const ownEnv = "UBLK_REMAP_MOUNTS"

const here = "/proc/self/ns/mnt"

// exe is this program, wherever its file is now.
const exe = "/proc/self/exe"

// storageMark begins argv[0] of a storage daemon. systemd leaves such a process alone when it
// leaves the initramfs. It also does so at the end of a shutdown, when it has unmounted what it can
// and ends all other processes.
const storageMark = "@"

// Own starts this program again, as the same process and with the same arguments, in a mount
// namespace of its own. If that works, it does not return. In the restarted program it returns nil.
// An error says that the mount namespace is the caller's. Leave must not be called then. name is
// the name that the process gets.
//
// The process is marked as a storage daemon (argv[0] begins with "@",
// https://systemd.io/ROOT_STORAGE_DAEMONS). With root, the program runs from memory, so that no
// part of it is on the disk that it serves. If there is not enough memory for that, it runs from
// its file, and says so on standard error.
//
// Own must be called before anything else: the exec closes descriptors that are marked so, and
// removes all signal handlers.
func Own(name string, root bool) error {
	NameProcess(name)
	if own, err := inherited(); own {
		// The time zone is read at its first use. A server that replaces another one must not read
		// it from the file system that waits for it.
		_ = time.Now().Local().String()
		return err
	}
	// Only this thread gets the namespace. The exec ends all others.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("unshare: %w", err)
	}
	// From here on there is no way back, because the threads are in different namespaces.
	result, err := os.Readlink("/proc/thread-self/ns/mnt")
	if err == nil {
		err = unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	if err != nil {
		result += " make the mounts private: " + err.Error()
	}
	// Later threads inherit the mark from this one. It cannot be set on all of them later if one
	// of them waits for a device.
	_ = unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0)
	env := append(os.Environ(), ownEnv+"="+result)
	program := exe
	if root {
		if program, err = inMemory(name); err != nil {
			fmt.Fprintf(os.Stderr, "%s: the program is not copied to memory, so it needs the file "+
				"system that it lies on: %v\n", name, err)
		}
	}
	err = unix.Exec(program, append([]string{storageMark + name}, os.Args[1:]...), env)
	fmt.Fprintf(os.Stderr, "%s: start itself again in a mount namespace of its own: %v\n", name,
		err)
	os.Exit(1)
	return nil
}

// inherited reports whether Own started the program, and its result.
func inherited() (own bool, err error) {
	made, why, bad := strings.Cut(os.Getenv(ownEnv), " ")
	if made == "" {
		return false, nil
	}
	// No child of this process inherits it.
	_ = os.Unsetenv(ownEnv)
	if now, err := os.Readlink(here); err != nil || now != made {
		return false, nil // set by somebody else
	}
	if bad {
		return true, errors.New(why)
	}
	return true, nil
}

// NameProcess sets the name that ps and top show. A program that was started through /proc/self/exe
// would be called exe.
func NameProcess(name string) {
	threads, _ := os.ReadDir("/proc/self/task")
	for _, t := range threads {
		_ = os.WriteFile("/proc/self/task/"+t.Name()+"/comm", []byte(name), 0)
	}
}

// inMemory returns the path of a copy of this program in memory, which can be executed as long as
// this process lives. With an error it returns the program's own path.
func inMemory(name string) (path string, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(exe, &st); err == nil &&
		(st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC) {
		return exe, nil // an initramfs, or a copy already
	}
	from, err := os.Open(exe)
	if err != nil {
		return exe, err
	}
	defer from.Close()
	// Linux before 6.3 does not know the second flag, and lets every such file be executed.
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	}
	if err != nil {
		return exe, fmt.Errorf("memfd_create: %w", err)
	}
	path = fmt.Sprintf("/proc/self/fd/%d", fd)
	to := os.NewFile(uintptr(fd), path)
	if _, err := io.Copy(to, from); err != nil {
		return exe, errors.Join(err, to.Close())
	}
	copies = append(copies, to)
	return path, nil
}

// copies keeps the copies of the program open.
var copies []*os.File
