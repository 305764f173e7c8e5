package ublk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ublkremap/ublk/internal/uapi"
)

// ControlPath is the driver's control device.
const ControlPath = "/dev/ublk-control"

// DefaultTimeout bounds a control command whose context has no deadline. Linux 6.12 notices
// the death of a server that had every tag in its hands only by the request timeout of 30
// s; this leaves it room.
const DefaultTimeout = 45 * time.Second

// A Control sends control commands. Its methods may be called from any goroutine and at the
// same time. Each has a deadline: the context's, or DefaultTimeout. Failures are
// *CommandError.
type Control struct {
	file *os.File

	mu       sync.Mutex
	closed   bool
	features Features
	known    bool
	idle     []*commandRing
	// held are commands that the kernel did not answer, not even when they were cancelled.
	held []*commandRing
}

// OpenControl opens /dev/ublk-control. It returns ErrNoDriver if there is none.
func OpenControl() (*Control, error) {
	f, err := os.OpenFile(ControlPath, os.O_RDWR, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) ||
			errors.Is(err, unix.ENXIO) {
			return nil, fmt.Errorf("%w: %w", ErrNoDriver, err)
		}
		return nil, err
	}
	return &Control{file: f}, nil
}

// Close closes the control device. Devices keep working; commands return ErrClosed from then on.
func (c *Control) Close() error {
	c.mu.Lock()
	c.closed = true
	idle := c.idle
	c.idle = nil
	c.mu.Unlock()
	c.sweep()
	for _, r := range idle {
		r.close()
	}
	return c.file.Close()
}

// Features asks the kernel once which features it has. Kernels before 6.5 cannot say; they give an
// UnsupportedFeatureError.
func (c *Control) Features(ctx context.Context) (Features, error) {
	c.mu.Lock()
	features, known := c.features, c.known
	c.mu.Unlock()
	if known {
		return features, nil
	}
	var word [uapi.FeaturesLen]byte
	_, err := c.command(ctx, command{name: "GET_FEATURES", op: uapi.CmdGetFeatures, id: -1,
		buf: word[:]})
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EINVAL) ||
		errors.Is(err, syscall.ENODEV) {
		return 0, &UnsupportedFeatureError{Name: "asking for features",
			MinimumVersion: KernelVersion{6, 5, 0}}
	}
	if err != nil {
		return 0, err
	}
	features = Features(*(*uint64)(unsafe.Pointer(&word)))
	c.mu.Lock()
	c.features, c.known = features, true
	c.mu.Unlock()
	return features, nil
}

// Add makes a device: id (or AnyID), queues, depth, largest request in bytes, features and
// tag are those of want, and what the kernel made of them is returned. The kernel may give
// fewer queues, and leaves out features it does not know.
func (c *Control) Add(ctx context.Context, want DeviceInfo) (DeviceInfo, error) {
	k := uapi.CtrlDevInfo{
		NrHWQueues: uint16(want.Queues), QueueDepth: uint16(want.Depth),
		MaxIOBufBytes: uint32(want.MaxIO),
		DevID:         uint32(want.ID), PID: -1, Flags: uint64(want.Features),
		ServerFlags: want.Tag,
	}
	_, err := c.command(ctx, command{name: "ADD_DEV", op: uapi.CmdAddDev, id: want.ID,
		buf: bytesOf(&k)})
	return decodeInfo(&k), err
}

// SetParams sets the parameters of a device that is not started. maxIO is the largest
// request in bytes, at most what the device was added with. Parameters that the kernel does
// not know are dropped by it; GetParams shows what is left.
func (c *Control) SetParams(ctx context.Context, id int, p Params, maxIO int) error {
	if err := p.validate(); err != nil {
		return err
	}
	k := p.encode(maxIO)
	_, err := c.command(ctx, command{name: "SET_PARAMS", op: uapi.CmdSetParams, id: id,
		buf: bytesOf(&k)})
	return err
}

// GetParams returns the parameters of a device.
func (c *Control) GetParams(ctx context.Context, id int) (Params, error) {
	k := uapi.Params{Len: uint32(unsafe.Sizeof(uapi.Params{}))}
	_, err := c.command(ctx, command{name: "GET_PARAMS", op: uapi.CmdGetParams, id: id,
		buf: bytesOf(&k)})
	if err != nil {
		return Params{}, err
	}
	return decodeParams(&k), nil
}

// Info returns what the kernel knows of a device, or ErrNotFound.
func (c *Control) Info(ctx context.Context, id int) (DeviceInfo, error) {
	// INFO2 also works for devices of other users; it wants the path of the character
	// device before the answer.
	path := append([]byte(charPath(id)), 0)
	buf := make([]byte, len(path)+int(unsafe.Sizeof(uapi.CtrlDevInfo{})))
	copy(buf, path)
	var k uapi.CtrlDevInfo
	_, err := c.command(ctx, command{name: "GET_DEV_INFO2", op: uapi.CmdGetDevInfo2, id: id,
		buf: buf, path: len(path)})
	switch {
	case err == nil:
		copy(bytesOf(&k), buf[len(path):])
	case errors.Is(err, syscall.ENODEV) || errors.Is(err, ErrTimeout):
		return DeviceInfo{}, err
	default:
		// There is no such node, or not yet, or not in this mount namespace: the older
		// command needs none.
		if _, err := c.command(ctx, command{name: "GET_DEV_INFO", op: uapi.CmdGetDevInfo, id: id,
			buf: bytesOf(&k)}); err != nil {
			return DeviceInfo{}, err
		}
	}
	return decodeInfo(&k), nil
}

// QueueAffinity returns the CPUs whose requests come to a queue. Setting a thread to them
// is up to the caller.
func (c *Control) QueueAffinity(ctx context.Context, id, queue int) (unix.CPUSet, error) {
	var set unix.CPUSet
	_, err := c.command(ctx, command{
		name: "GET_QUEUE_AFFINITY", op: uapi.CmdGetQueueAffinity, id: id, data: uint64(queue),
		buf: bytesOf(&set),
	})
	return set, err
}

// Start makes the device live under the server pid, once all of its queues have fetched. It
// waits for that.
func (c *Control) Start(ctx context.Context, id, pid int) error {
	_, err := c.command(ctx, command{name: "START_DEV", op: uapi.CmdStartDev, id: id,
		data: uint64(pid)})
	return err
}

// Stop removes the block device once all of its requests are answered. It works whether the
// server lives or not.
func (c *Control) Stop(ctx context.Context, id int) error {
	_, err := c.command(ctx, command{name: "STOP_DEV", op: uapi.CmdStopDev, id: id})
	return err
}

// TryStop is Stop, but gives ErrBusy if anybody has the block device open. Linux 7.0.
func (c *Control) TryStop(ctx context.Context, id int) error {
	if err := c.require(ctx, FeatureSafeStop); err != nil {
		return err
	}
	_, err := c.command(ctx, command{name: "TRY_STOP_DEV", op: uapi.CmdTryStopDev, id: id})
	return err
}

// Delete removes a device, stopping it if need be, and waits until its number is free:
// until the server has closed its end and nobody has the block device open any more. If
// that takes too long the error is a *HeldOpenError; the device then vanishes by itself
// when its last holder goes.
func (c *Control) Delete(ctx context.Context, id int) error {
	_, err := c.command(ctx, command{name: "DEL_DEV", op: uapi.CmdDelDev, id: id})
	if errors.Is(err, ErrTimeout) {
		return &HeldOpenError{ID: id, Holders: Holders(id), Err: err}
	}
	return err
}

// DeleteAsync is Delete without waiting for the last holder.
func (c *Control) DeleteAsync(ctx context.Context, id int) error {
	_, err := c.command(ctx, command{name: "DEL_DEV_ASYNC", op: uapi.CmdDelDevAsync, id: id})
	return err
}

// StartRecovery begins to give a quiesced device to a new server. It gives ErrBusy as long
// as the old one is not gone; Recover asks again for that reason.
func (c *Control) StartRecovery(ctx context.Context, id int) error {
	_, err := c.command(ctx, command{name: "START_USER_RECOVERY", op: uapi.CmdStartUserRecovery,
		id: id})
	return err
}

// EndRecovery makes the device live again under the server pid, once all of its queues have
// fetched. It waits for that.
func (c *Control) EndRecovery(ctx context.Context, id, pid int) error {
	_, err := c.command(ctx, command{name: "END_USER_RECOVERY", op: uapi.CmdEndUserRecovery, id: id,
		data: uint64(pid)})
	return err
}

// Quiesce takes a live device from its server without an error to anybody, so that another
// can recover it. The server's tags end as they do at a stop, those that it is answering at
// the time excepted. within, a millisecond or more, bounds how long the kernel waits for
// the server to have a tag free; ErrBusy says it had none. Linux 6.16.
//
// The kernel does not keep that wait: it counts the wrong requests (ublk_count_busy_req in
// drivers/block/ublk_drv.c, up to 7.3 at least). A queue whose tags are all in the server's
// hands is not told then, gets no more requests and does not know. Whoever wants the server
// to end looks whether it does, and else asks again.
func (c *Control) Quiesce(ctx context.Context, id int, within time.Duration) error {
	if err := c.require(ctx, FeatureQuiesce); err != nil {
		return err
	}
	// The kernel takes milliseconds, and 0 for no limit.
	ms := uint64(max(within, time.Millisecond).Milliseconds())
	_, err := c.command(ctx, command{name: "QUIESCE_DEV", op: uapi.CmdQuiesceDev, id: id, data: ms})
	return err
}

// UpdateSize resizes a device, live or not, to size bytes. Linux 6.16.
func (c *Control) UpdateSize(ctx context.Context, id int, size int64) error {
	if err := c.require(ctx, FeatureUpdateSize); err != nil {
		return err
	}
	if size <= 0 || size%SectorSize != 0 {
		return fmt.Errorf("ublk: size of %d bytes", size)
	}
	_, err := c.command(ctx, command{name: "UPDATE_SIZE", op: uapi.CmdUpdateSize, id: id,
		data: uint64(size) / SectorSize})
	return err
}

func (c *Control) require(ctx context.Context, want Features) error {
	have, err := c.Features(ctx)
	if err != nil {
		return err
	}
	return have.Require(want)
}

// bytesOf views a struct of the ABI as bytes. The command is given a copy of them.
func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)),
		unsafe.Sizeof(*v))
}
