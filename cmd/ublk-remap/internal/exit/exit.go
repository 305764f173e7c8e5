// Package exit says which exit code an error means. It is the only place that knows the sentinels
// of all packages.
package exit

import (
	"errors"
	"io/fs"
	"syscall"

	"ublkremap/cmd/ublk-remap/internal/logging"
	"ublkremap/cmd/ublk-remap/internal/size"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/config"
	"ublkremap/internal/control"
	"ublkremap/internal/host"
	"ublkremap/internal/host/set"
	"ublkremap/internal/lists"
	"ublkremap/internal/server"
	"ublkremap/metadata"
	"ublkremap/remap"
	"ublkremap/ublk"
)

// The exit codes. Scripts rely on them.
const (
	Done        = 0
	Failed      = 1
	Usage       = 2
	Refused     = 3 // to protect data
	NotFound    = 4
	Unsupported = 5 // the kernel, or the file system, lacks something
	Damaged     = 6 // metadata
)

// Errors of the command itself; the packages have their own.
var (
	// ErrUsage: the command line makes no sense.
	ErrUsage = errors.New("usage")
	// ErrRefused: doing it could destroy data.
	ErrRefused = errors.New("refused")
	// ErrNotFound: what the command line names does not exist.
	ErrNotFound = errors.New("not found")
	// ErrUnsupported: this machine lacks something.
	ErrUnsupported = errors.New("not supported here")
)

var codes = []struct {
	err  error
	code int
}{
	{ErrUsage, Usage},
	{size.ErrSize, Usage},
	{logging.ErrFormat, Usage},
	{control.ErrInvalid, Usage},
	{config.ErrInvalid, Usage},
	{lists.ErrList, Usage},
	{metadata.ErrGeometry, Usage},
	{metadata.ErrTooSmall, Usage},
	{remap.ErrRange, Usage},

	// If something could not be read, it is not known to be damaged, whatever else the error wraps.
	{metadata.ErrPath, Failed},

	// Damaged comes before refused, because damaged metadata is often refused too.
	{metadata.ErrDamaged, Damaged},
	{metadata.ErrBackup, Damaged},

	{ErrRefused, Refused},
	{control.ErrRefused, Refused},
	{config.ErrRefused, Refused},
	{control.ErrOwned, Refused},
	{host.ErrRefused, Refused},
	{host.ErrServed, Refused},
	{server.ErrRecovery, Refused},
	{blockdev.ErrBusy, Refused},
	{blockdev.ErrReadOnly, Refused},
	{blockdev.ErrProtective, Refused},
	{set.ErrAmbiguous, Refused},
	{metadata.ErrForeign, Refused},
	{metadata.ErrStale, Refused},
	{metadata.ErrBackupStale, Refused},
	{set.ErrUnfit, Refused},
	{metadata.ErrReadOnly, Refused},
	{metadata.ErrUnfinished, Refused},
	{metadata.ErrStuck, Refused},
	{ublk.ErrExists, Refused},

	{ErrUnsupported, Unsupported},
	{ublk.ErrNoDriver, Unsupported},
	{ublk.ErrNotSupported, Unsupported},
	{blockdev.ErrNoDirectIO, Unsupported},
	{blockdev.ErrAlignment, Unsupported},
	{metadata.ErrUnsupported, Unsupported},

	{ErrNotFound, NotFound},
	{host.ErrNotFound, NotFound},
	{control.ErrNotFound, NotFound},
	{metadata.ErrNotFound, NotFound},
	{blockdev.ErrNotDevice, Usage},
	{syscall.EISDIR, Usage},
	{ublk.ErrNotFound, NotFound},
	{fs.ErrNotExist, NotFound},
	{syscall.ENOTDIR, NotFound},
	{syscall.ELOOP, NotFound},
	{syscall.ENAMETOOLONG, NotFound},
}

// Later is the exit code of a server under a service manager whose start was refused for a reason
// that can pass by itself, so that a later try makes sense: EX_TEMPFAIL of sysexits.h. Other
// processes exit with Refused for the same error.
const Later = 75

// lasting are refusals of a start that last until somebody changes the set, its files or its disks.
// udev starts a set whose disk appears, so what a disk that appears would mend is one of them.
// Everything that is not in this list can pass by itself: a disk that something else has open, a
// server that ends, a copy of the disk that is detached.
var lasting = []error{
	config.ErrRefused,
	metadata.ErrUnfinished,
	metadata.ErrForeign,
	metadata.ErrReadOnly,
	set.ErrUnfit,
	blockdev.ErrProtective,
}

// laterError makes the exit code of a refusal Later.
type laterError struct{ error }

func (e laterError) Unwrap() error { return e.error }

// Supervised returns the error with which a server under a service manager ends, for a start that
// has failed. If the start was refused, and the reason can pass by itself, its exit code is Later.
// waits says that a device waits for this server. Then each refusal counts as one that can pass,
// because its requests wait, too.
func Supervised(err error, waits bool) error {
	if Code(err) != Refused {
		return err
	}
	for _, l := range lasting {
		if errors.Is(err, l) && !waits {
			return err
		}
	}
	return laterError{err}
}

// Error is an error of a process whose exit code is known, such as a detached server.
type Error struct {
	Code int
	Text string
}

// Error returns the text.
func (e *Error) Error() string { return e.Text }

// Code returns the exit code of an error, and Done for nil. The first sentinel of the table that
// the error wraps decides. An error that wraps none is Failed.
func Code(err error) int {
	if err == nil {
		return Done
	}
	var later laterError
	if errors.As(err, &later) {
		return Later
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return Failed
}
