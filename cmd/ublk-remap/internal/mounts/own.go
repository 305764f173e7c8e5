package mounts

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// ownEnv tells the program across its exec how Own went: the name of the
// namespace, and after a space what went wrong, if anything did.
const ownEnv = "UBLK_REMAP_MOUNTS"

const here = "/proc/self/ns/mnt"

// Own starts this program again, as the same process and with the same arguments, in a
// mount namespace of its own, and does not return if it can. In the program that was started
// so, it returns nil. An error says that the mount namespace is the caller's: Leave must not be
// called then. name is what the process is called.
//
// It must be called first: the exec closes descriptors that are marked so, and no handler of
// signals survives it.
func Own(name string) error {
	nameProcess(name)
	if own, err := inherited(); own {
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
	err = unix.Exec("/proc/self/exe", append([]string{name}, os.Args[1:]...), env)
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

// nameProcess sets what ps and top show. Started by way of /proc/self/exe the threads
// are called exe.
func nameProcess(name string) {
	threads, _ := os.ReadDir("/proc/self/task")
	for _, t := range threads {
		_ = os.WriteFile("/proc/self/task/"+t.Name()+"/comm", []byte(name), 0)
	}
}
