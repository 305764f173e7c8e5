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

// ownEnv tells the program across its exec how Own went: the name of the
// namespace, and after a space what went wrong, if anything did.
const ownEnv = "UBLK_REMAP_MOUNTS"

const here = "/proc/self/ns/mnt"

// exe is this program, wherever its file is.
const exe = "/proc/self/exe"

// storageMark is how argv[0] of a storage daemon begins: systemd leaves such a process alone when
// it leaves the initramfs. So it does at the end of a shutdown, when it has unmounted what it can
// and ends all other processes.
const storageMark = "@"

// Own starts this program again, as the same process and with the same arguments, in a
// mount namespace of its own, and does not return if it can. In the program that was started
// so, it returns nil. An error says that the mount namespace is the caller's: Leave must not be
// called then. name is what the process is called.
//
// The process is marked as a storage daemon (argv[0] begins with "@",
// https://systemd.io/ROOT_STORAGE_DAEMONS). With root, the program runs from memory: nothing of it
// then lies on what it serves. If there is no memory for that it runs from where it is, and says
// so on standard error.
//
// It must be called first: the exec closes descriptors that are marked so, and no handler of
// signals survives it.
func Own(name string, root bool) error {
	NameProcess(name)
	if own, err := inherited(); own {
		// The time zone is read at its first use. A server that takes the place of another one must
		// not read it from the file system that waits for it.
		_ = time.Now().Local().String()
		return err
	}
	// Only this thread gets the namespace. The exec ends all others.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("unshare: %w", err)
	}
	// From here on it cannot go back: the threads are in different namespaces.
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

// inherited reports whether the program was started by Own, and how that went.
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

// NameProcess sets what ps and top show. Started by way of /proc/self/exe the threads
// are called exe.
func NameProcess(name string) {
	threads, _ := os.ReadDir("/proc/self/task")
	for _, t := range threads {
		_ = os.WriteFile("/proc/self/task/"+t.Name()+"/comm", []byte(name), 0)
	}
}

// inMemory returns a path of this program in memory that can be executed as long as this process
// lives, and the program's own path with each error.
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
	// Before Linux 6.3 the second flag is not known, and every such file can be executed.
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

// copies keeps what is to be executed open.
var copies []*os.File
