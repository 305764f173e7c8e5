package ublk

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

// Sentinel errors. All errors of this package that are about one of these wrap it; test
// with errors.Is.
var (
	// ErrNotSupported is wrapped by UnsupportedFeatureError, and by a CommandError if the
	// kernel does not know the command. It is the same as errors.ErrUnsupported.
	ErrNotSupported = errors.ErrUnsupported
	// ErrNoDriver is returned by OpenControl when /dev/ublk-control is missing: the module
	// ublk_drv is not loaded, or the kernel was built without it.
	ErrNoDriver = errors.New("the kernel's ublk driver is not there")
	// ErrNotFound is returned when there is no device of the id.
	ErrNotFound = errors.New("no such ublk device")
	// ErrExists is returned by Create when the id that was asked for is taken.
	ErrExists = errors.New("a ublk device of this id exists")
	// ErrBusy is returned when the device is in a state in which the command is not
	// possible now: being started, served by a living server, or still held by a dying one.
	ErrBusy = errors.New("the ublk device is busy")
	// ErrTimeout is returned when the kernel did not answer before the deadline. The
	// command was cancelled; if the kernel would not even cancel it, it may still take
	// effect later.
	ErrTimeout = errors.New("the kernel did not answer in time")
	// ErrNotRecoverable is returned by Recover for a device that was created without user recovery.
	ErrNotRecoverable = errors.New("the ublk device was not created with user recovery")
	// ErrClosed is returned by methods of a Control or Device that was closed.
	ErrClosed = errors.New("closed")
	// ErrPreemptOff is returned by Run under GODEBUG=asyncpreemptoff=1, with which a queue
	// thread that waits in the kernel could hold up the garbage collector for ever.
	ErrPreemptOff = errors.New("GODEBUG=asyncpreemptoff=1 is set: a queue thread could stop the " +
		"whole process")
)

// A CommandError says which control command failed, for which device, and how.
type CommandError struct {
	Op    string        // the command's name as in the kernel's header, for example "ADD_DEV"
	ID    int           // device id, or -1
	Errno syscall.Errno // what the kernel answered, or ETIME
}

func (e *CommandError) Error() string {
	msg := "ublk: " + e.Op
	if e.ID >= 0 {
		msg = fmt.Sprintf("%s of device %d", msg, e.ID)
	}
	return fmt.Sprintf("%s: %v", msg, e.Errno)
}

// Unwrap gives the errno and the sentinel that it stands for.
func (e *CommandError) Unwrap() []error {
	switch e.Errno {
	case syscall.ENODEV, syscall.ENOENT:
		return []error{e.Errno, ErrNotFound}
	case syscall.EEXIST:
		return []error{e.Errno, ErrExists}
	case syscall.EBUSY:
		return []error{e.Errno, ErrBusy}
	case syscall.ETIME:
		return []error{e.Errno, ErrTimeout, context.DeadlineExceeded}
	}
	return []error{e.Errno}
}

// An UnsupportedFeatureError says that the running kernel lacks a feature that was required.
type UnsupportedFeatureError struct {
	Name           string        // for example "zero copy"
	MinimumVersion KernelVersion // the first Linux that has it
}

func (e *UnsupportedFeatureError) Error() string {
	return fmt.Sprintf("ublk: this kernel does not support %s (needs Linux %s or later)", e.Name,
		e.MinimumVersion)
}

// Is makes every UnsupportedFeatureError an ErrNotSupported.
func (e *UnsupportedFeatureError) Is(target error) bool { return target == ErrNotSupported }

// A HeldOpenError says who keeps a device from being deleted. It wraps ErrTimeout.
type HeldOpenError struct {
	ID      int
	Holders []Holder // may be empty: the holder may be the kernel itself, such as a mount
	Err     error    // what the command said
}

func (e *HeldOpenError) Error() string {
	if len(e.Holders) == 0 {
		return fmt.Sprintf("%v; no process has it open, perhaps it is mounted or a part of "+
			"another device", e.Err)
	}
	msg := fmt.Sprintf("%v; it is held by", e.Err)
	for i, h := range e.Holders {
		if i > 0 {
			msg += ","
		}
		msg += " " + h.String()
	}
	return msg
}

func (e *HeldOpenError) Unwrap() error { return e.Err }
