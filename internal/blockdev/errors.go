package blockdev

import "errors"

var (
	// ErrBusy is returned when the device is mounted, is swap space, belongs to another driver, or
	// is served by another server. The error that wraps it names the holder if one can be found.
	ErrBusy = errors.New("device is in use")
	// ErrReadOnly is returned when a device that must be written is read-only.
	ErrReadOnly = errors.New("device is read-only")
	// ErrNoDirectIO is returned when the file system of a regular file does not support direct I/O.
	ErrNoDirectIO = errors.New("direct I/O is not supported here")
	// ErrNotDevice is returned for paths that are neither a block device nor a regular file.
	ErrNotDevice = errors.New("neither a block device nor a regular file")
	// ErrAlignment is returned for writes that are not aligned to the block size, and for devices
	// whose block size this program cannot serve.
	ErrAlignment = errors.New("bad alignment")
	// ErrProtective is returned for the partition by which the disk of a set shows other tools that
	// it is in use. It holds nothing. The error that wraps it names the disk.
	ErrProtective = errors.New("the partition only shows that its disk is in use")
)
