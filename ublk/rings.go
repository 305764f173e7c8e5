package ublk

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"ublkremap/ublk/internal/uring"
)

// keptRings is how many idle rings a Control keeps.
const keptRings = 3

// commandRing is a ring for one control command at a time, with the page that it points to.
type commandRing struct {
	ring *uring.Ring
	mem  []byte
	last uint64 // user data of its last command
}

func newCommandRing() (*commandRing, error) {
	ring, err := uring.New(uring.CommandRing, 4)
	switch {
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.ENOSYS):
		return nil, &RingForbiddenError{Err: err}
	case err != nil:
		return nil, err
	}
	mem, err := uring.Mmap(pageSize)
	if err != nil {
		return nil, errors.Join(err, ring.Close())
	}
	return &commandRing{ring: ring, mem: mem}, nil
}

func (r *commandRing) close() {
	_ = r.ring.Close()
	_ = uring.Munmap(r.mem)
}

// next returns the user data of the ring's next command; one more is that of its cancellation.
func (r *commandRing) next() uint64 {
	r.last += 2
	return r.last
}

// Reserve makes rings in advance, so that n commands at a time, up to three, work from now on even
// if this process may make no more rings: kernel.io_uring_disabled can be set while a device lives,
// and the device could not be stopped then.
func (c *Control) Reserve(n int) error {
	for {
		c.mu.Lock()
		enough := len(c.idle) >= min(n, keptRings)
		c.mu.Unlock()
		if enough {
			return nil
		}
		r, err := newCommandRing()
		if err != nil {
			return err
		}
		c.giveBack(r)
	}
}

// take returns an idle ring or a new one.
func (c *Control) take() (*commandRing, error) {
	c.mu.Lock()
	if n := len(c.idle); n > 0 {
		r := c.idle[n-1]
		c.idle = c.idle[:n-1]
		c.mu.Unlock()
		return r, nil
	}
	c.mu.Unlock()
	return newCommandRing()
}

// giveBack keeps a ring whose command was answered, or closes it if there are enough.
func (c *Control) giveBack(r *commandRing) {
	c.mu.Lock()
	keep := !c.closed && len(c.idle) < keptRings
	if keep {
		c.idle = append(c.idle, r)
	}
	c.mu.Unlock()
	if !keep {
		r.close()
	}
}

// A RingForbiddenError says that this process may not use io_uring, without which the
// driver cannot be asked for anything. It is ErrNotSupported.
type RingForbiddenError struct{ Err error }

// ringSwitch is the sysctl, Documentation/admin-guide/sysctl/kernel.rst.
const ringSwitch = "/proc/sys/kernel/io_uring_disabled"

func (e *RingForbiddenError) Error() string {
	b, err := os.ReadFile(ringSwitch)
	value := strings.TrimSpace(string(b))
	if err == nil && value != "0" {
		return fmt.Sprintf("io_uring is forbidden here (kernel.io_uring_disabled is %s): %v; "+
			"allow it with: sysctl kernel.io_uring_disabled=0", value, e.Err)
	}
	return fmt.Sprintf("io_uring is forbidden here: %v; the kernel was built without it, or a "+
		"container or a security module does not let this process have it", e.Err)
}

func (e *RingForbiddenError) Unwrap() error { return e.Err }

// Is makes it an ErrNotSupported.
func (e *RingForbiddenError) Is(target error) bool { return target == ErrNotSupported }

// Advised reports that the error says what to do about it.
func (e *RingForbiddenError) Advised() bool { return true }
