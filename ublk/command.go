package ublk

import (
	"context"
	"fmt"
	"os"
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
	// How long a cancelled command may take to end. A command that takes longer is in a wait that
	// cannot be interrupted.
	cancelGrace = 2 * time.Second
	// How often a wait checks whether its context has ended.
	contextPoll = 100 * time.Millisecond
)

// command sends one command on a ring that has no other, and waits for its answer, with a deadline.
// Commands are rare, so each has a ring of its own. A command that the kernel holds up for ever
// then holds up nothing else.
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
	c.mu.Unlock()
	c.sweep()
	if closed {
		return 0, fmt.Errorf("ublk: %s: control device: %w", cmd.name, ErrClosed)
	}

	// The kernel ties what is under way to the thread that submitted it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r, err := c.take()
	if err != nil {
		return 0, fmt.Errorf("ublk: %s: %w", cmd.name, err)
	}
	res, answered, err := r.send(ctx, c.file, cmd, deadline)
	if err != nil || !answered {
		// The kernel may still write to its memory.
		c.hold(r)
		if err != nil {
			return 0, fmt.Errorf("ublk: %s: %w", cmd.name, err)
		}
		if cerr := ctx.Err(); cerr == context.Canceled {
			return 0, fmt.Errorf("ublk: %s: %w", cmd.name, cerr)
		}
		return fail(unix.ETIME)
	}
	copy(cmd.buf, r.mem)
	c.giveBack(r)
	switch {
	case res == -int32(unix.ETIME) && ctx.Err() == context.Canceled:
		return 0, fmt.Errorf("ublk: %s: %w", cmd.name, ctx.Err())
	case res < 0:
		return fail(syscall.Errno(-res))
	}
	return res, nil
}

// send submits a command and waits for its answer; if none comes in time it is cancelled.
func (r *commandRing) send(ctx context.Context, file *os.File, cmd command,
	deadline time.Time) (res int32, answered bool, err error) {
	copy(r.mem, cmd.buf)
	id := r.next()
	s := r.ring.SQE()
	payload := (*uapi.CtrlCmd)(uring.Command(s, int(file.Fd()), false, cmd.op))
	*payload = uapi.CtrlCmd{DevID: uint32(cmd.id), QueueID: uapi.QueueIDNone, Data: cmd.data,
		DevPathLen: uint16(cmd.path)}
	if len(cmd.buf) > 0 {
		payload.Len = uint16(len(cmd.buf))
		payload.Addr = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(r.mem))))
	}
	s.UserData = id

	res, answered, err = await(ctx, r.ring, id, deadline)
	runtime.KeepAlive(file)
	if err != nil || answered {
		return res, answered, err
	}
	s = r.ring.SQE()
	uring.Cancel(s, id)
	s.UserData = id + 1
	res, answered, err = await(context.WithoutCancel(ctx), r.ring, id, time.Now().Add(cancelGrace))
	if answered && res < 0 {
		// It ended because it was cancelled, whatever its result says.
		res = -int32(unix.ETIME)
	}
	return res, answered, err
}

func (c *Control) hold(r *commandRing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = append(c.held, r)
}

// sweep takes back the rings of commands that have been answered since.
func (c *Control) sweep() {
	var answered []*commandRing
	c.mu.Lock()
	c.held = slices.DeleteFunc(c.held, func(r *commandRing) bool {
		var cqes [4]uring.CQE
		for _, e := range cqes[:r.ring.Reap(cqes[:])] {
			if e.UserData == r.last {
				answered = append(answered, r)
				return true
			}
		}
		return false
	})
	c.mu.Unlock()
	for _, r := range answered {
		c.giveBack(r)
	}
}

// await submits what is queued and waits for the answer to the command with this user data.
func await(ctx context.Context, ring *uring.Ring, id uint64, deadline time.Time) (res int32,
	answered bool, err error) {
	for {
		var cqes [2]uring.CQE
		for _, e := range cqes[:ring.Reap(cqes[:])] {
			if e.UserData == id {
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
