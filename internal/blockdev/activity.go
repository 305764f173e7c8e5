package blockdev

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Activity is what the kernel has counted of a block device (Documentation/block/stat.rst).
type Activity struct {
	Done     uint64 // requests that have come back
	InFlight uint64 // requests that have not
}

// An ActivityFile reads the Activity of one device repeatedly, without allocating. Only one
// goroutine may use it at a time.
type ActivityFile struct {
	f   *os.File
	buf [512]byte
}

// OpenActivity opens the counters of the block device at path. If path is a file it opens those of
// the block device that the file lies on. The error wraps os.ErrNotExist if the kernel has no
// counters, as for a file system over several disks.
func OpenActivity(path string) (*ActivityFile, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	dev := st.Dev
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		dev = st.Rdev
	}
	f, err := os.Open(filepath.Join(sysDir(dev), "stat"))
	if err != nil {
		return nil, err
	}
	return &ActivityFile{f: f}, nil
}

// Read returns the current values of the counters.
func (a *ActivityFile) Read() (Activity, error) {
	n, err := a.f.ReadAt(a.buf[:], 0)
	if err != nil && err != io.EOF {
		return Activity{}, err
	}
	return parseActivity(a.buf[:n]), nil
}

// Close closes the file.
func (a *ActivityFile) Close() error { return a.f.Close() }

// parseActivity adds up reads, writes, discards and flushes: fields 1, 5, 12 and 16. Older kernels
// have fewer of them. Field 9 is the number in flight.
func parseActivity(text []byte) (a Activity) {
	for i := 1; len(text) > 0; i++ {
		var field []byte
		text = bytes.TrimLeft(text, " \n")
		if at := bytes.IndexAny(text, " \n"); at >= 0 {
			field, text = text[:at], text[at:]
		} else {
			field, text = text, nil
		}
		switch i {
		case 1, 5, 12, 16:
			a.Done += number(field)
		case 9:
			a.InFlight = number(field)
		}
	}
	return a
}

func number(digits []byte) (n uint64) {
	for _, d := range digits {
		if d < '0' || d > '9' {
			return n
		}
		n = n*10 + uint64(d-'0')
	}
	return n
}

// InFlight is how many requests of a block device have not come back, or 0 if that is not known.
func InFlight(path string) uint64 {
	a, err := OpenActivity(path)
	if err != nil {
		return 0
	}
	defer func() { _ = a.Close() }()
	now, err := a.Read()
	if err != nil {
		return 0
	}
	return now.InFlight
}
