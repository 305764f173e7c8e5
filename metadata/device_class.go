package metadata

import (
	"errors"
	"syscall"
)

// Class says what an errno of a disk means. It is the same for all that read or write a disk: the
// I/O path, a load, a verb that works offline. The kernel's table of block status codes and their
// errnos is in block/blk-core.c.
type Class uint8

const (
	// ClassMedium: the place may be bad. Other places of the disk have to show that the disk works:
	// a missing disk answers EIO as well.
	ClassMedium Class = iota
	// ClassResource: a resource is lacking. It is retried after a while.
	ClassResource
	// ClassPath says nothing about the medium: the path, the request or the
	// whole disk is at fault. Nothing may be concluded from it about what is on the disk.
	ClassPath
)

// Classify sorts an errno, positive or negative. An errno that is not listed counts as
// a fault of the path, because nothing is lost if nothing is concluded.
func Classify(errno int32) Class {
	if errno < 0 {
		errno = -errno
	}
	switch syscall.Errno(errno) {
	case syscall.ENODATA, // BLK_STS_MEDIUM
		syscall.EREMOTEIO, // BLK_STS_TARGET
		syscall.EIO:       // BLK_STS_IOERR: anything
		return ClassMedium
	case syscall.ENOMEM, syscall.EBUSY, syscall.EAGAIN, syscall.EINTR:
		return ClassResource
	}
	return ClassPath
}

// classOf is Classify for an error of a Device. An error that wraps no errno is a fault of the
// path.
func classOf(err error) Class {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return Classify(int32(errno))
	}
	return ClassPath
}

// mayComeBack reports whether a retry after a while makes sense: for the errnos of a transport that
// comes and goes. The disk rejects some requests, and would reject them later, too.
func mayComeBack(err error) bool {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return false
	}
	switch errno {
	case syscall.ENOLINK, syscall.ETIMEDOUT, syscall.ETIME, syscall.ENODEV, syscall.ENXIO,
		syscall.EBADE, syscall.EIO,
		syscall.ENODATA, syscall.EREMOTEIO: // the latter three of a disk that reads nowhere
		return true
	}
	return Classify(int32(errno)) == ClassResource
}
