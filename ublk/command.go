package ublk

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ublkremap/ublk/internal/uapi"
	"ublkremap/ublk/internal/uring"
)

// command is one control command before it is sent.
type command struct {
	name string
	op   uint32
	id   int
	data uint64
	buf  []byte // in and out; at most a page
	path int    // leading bytes of buf that are a path
}

const (
	commandUserData = 1
	cancelUserData  = 2

	// How long a cancelled command may take to end. One that does not is in a wait that cannot be interrupted.
	cancelGrace = 2 * time.Second
	// How often a wait looks at a context without a deadline of its own making.
	contextPoll = 100 * time.Millisecond
)

// command sends one command on a ring of its own and waits for its answer, with a deadline. Commands are rare, and a
// ring each means that one that the kernel holds up for ever holds up nothing else.
func (c *Control) command(ctx context.Context, cmd command) (int32, error) {
	fail := func(errno syscall.Errno) (int32, error) {
		return 0, &CommandError{Op: cmd.name, ID: cmd.id, Errno: errno}
	}
	deadline := time.Now().Add(DefaultTimeout)
	if d, ok := ctx.Deadline(); ok {
		deadline = d
	}
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("ublk: %s: %w", cmd.name, err)
	}
	c.mu.Lock()
	closed := c.closed
	c.sweep()
	c.mu.Unlock()
	if closed {
		return 0, fmt.Errorf("ublk: %s: control device: %w", cmd.name, ErrClosed)
	}

	// The kernel ties what is under way to the thread that submitted it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ring, err := uring.New(uring.CommandRing, 4)
	if err != nil {
		return 0, fmt.Errorf("ublk: %s: %w", cmd.name, err)
	}
	mem, err := uring.Mmap(pageSize)
	if err != nil {
		_ = ring.Close()
		return 0, fmt.Errorf("ublk: %s: %w", cmd.name, err)
	}
	copy(mem, cmd.buf)

	s := ring.SQE()
	payload := (*uapi.CtrlCmd)(uring.Command(s, int(c.file.Fd()), false, cmd.op))
	*payload = uapi.CtrlCmd{DevID: uint32(cmd.id), QueueID: uapi.QueueIDNone, Data: cmd.data, DevPathLen: uint16(cmd.path)}
	if len(cmd.buf) > 0 {
		payload.Len = uint16(len(cmd.buf))
		payload.Addr = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem))))
	}
	s.UserData = commandUserData

	res, answered, err := await(ctx, ring, deadline)
	runtime.KeepAlive(c.file)
	if err == nil && !answered {
		s := ring.SQE()
		uring.Cancel(s, commandUserData)
		s.UserData = cancelUserData
		res, answered, err = await(context.WithoutCancel(ctx), ring, time.Now().Add(cancelGrace))
		if answered && res < 0 {
			// It ended because of us, whatever it calls that.
			res = -int32(unix.ETIME)
		}
	}
	if err != nil || !answered {
		// The kernel may still write to mem.
		c.hold(ring, mem)
		if err != nil {
			return 0, fmt.Errorf("ublk: %s: %w", cmd.name, err)
		}
		if cerr := ctx.Err(); cerr == context.Canceled {
			return 0, fmt.Errorf("ublk: %s: %w", cmd.name, cerr)
		}
		return fail(unix.ETIME)
	}
	copy(cmd.buf, mem)
	_ = ring.Close()
	_ = uring.Munmap(mem)
	switch {
	case res == -int32(unix.ETIME) && ctx.Err() == context.Canceled:
		return 0, fmt.Errorf("ublk: %s: %w", cmd.name, ctx.Err())
	case res < 0:
		return fail(syscall.Errno(-res))
	}
	return res, nil
}

// heldCommand is what belongs to a command that is still in the kernel.
type heldCommand struct {
	ring *uring.Ring
	mem  []byte
}

func (c *Control) hold(ring *uring.Ring, mem []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = append(c.held, heldCommand{ring, mem})
}

// sweep gives back what belonged to commands that have been answered since. The caller holds the lock.
func (c *Control) sweep() {
	c.held = slices.DeleteFunc(c.held, func(h heldCommand) bool {
		var cqes [4]uring.CQE
		for _, e := range cqes[:h.ring.Reap(cqes[:])] {
			if e.UserData == commandUserData {
				_ = h.ring.Close()
				_ = uring.Munmap(h.mem)
				return true
			}
		}
		return false
	})
}

// await submits what is queued and waits for the answer to the command.
func await(ctx context.Context, ring *uring.Ring, deadline time.Time) (res int32, answered bool, err error) {
	for {
		var cqes [2]uring.CQE
		for _, e := range cqes[:ring.Reap(cqes[:])] {
			if e.UserData == commandUserData {
				return e.Res, true, nil
			}
		}
		left := time.Until(deadline)
		if left <= 0 || ctx.Err() != nil {
			return 0, false, nil
		}
		if ctx.Done() != nil {
			left = min(left, contextPoll)
		}
		if err := ring.SubmitAndWait(left); err != nil {
			return 0, false, err
		}
	}
}
