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

// DefaultTimeout bounds a control command whose context has no deadline. Linux 6.12 notices the
// death of a server that held every tag only by the request timeout of 30 s. This bound is longer
// than that.
const DefaultTimeout = 45 * time.Second

// A Control sends control commands. Any goroutine may call its methods, also at the same time. Each
// call has a deadline: that of the context, or DefaultTimeout. Failures are *CommandError.
type Control struct {
	file *os.File

	mu       sync.Mutex
	closed   bool
	features Features
	known    bool
	idle     []*commandRing
	// held are commands that the kernel did not answer, even after they were cancelled.
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

// Close closes the control device. Devices keep working. Commands return ErrClosed from then on.
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

// Features asks the kernel which features it has, and does so only once. Kernels before 6.5 cannot
// tell. They give an UnsupportedFeatureError.
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

// Add makes a device. It takes from want the id (or AnyID), queues, depth, largest request in
// bytes, features and tag. It returns what the kernel made of them. The kernel may give fewer
// queues, and leaves out features that it does not know.
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

// SetParams sets the parameters of a device that is not started. maxIO is the largest request in
// bytes, at most the size that the device was added with. The kernel drops parameters that it does
// not know. GetParams shows which are left.
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
	// INFO2 also works for devices of other users. It expects the path of the character device in
	// the buffer of the answer.
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
		// The node does not exist, does not exist yet, or is not in this mount namespace. The older
		// command needs no node.
		if _, err := c.command(ctx, command{name: "GET_DEV_INFO", op: uapi.CmdGetDevInfo, id: id,
			buf: bytesOf(&k)}); err != nil {
			return DeviceInfo{}, err
		}
	}
	return decodeInfo(&k), nil
}

// QueueAffinity returns the CPUs whose requests come to a queue. The caller decides whether it
// binds a thread to them.
func (c *Control) QueueAffinity(ctx context.Context, id, queue int) (unix.CPUSet, error) {
	var set unix.CPUSet
	_, err := c.command(ctx, command{
		name: "GET_QUEUE_AFFINITY", op: uapi.CmdGetQueueAffinity, id: id, data: uint64(queue),
		buf: bytesOf(&set),
	})
	return set, err
}

// Start makes the device live under the server pid. It waits until all queues have fetched.
func (c *Control) Start(ctx context.Context, id, pid int) error {
	_, err := c.command(ctx, command{name: "START_DEV", op: uapi.CmdStartDev, id: id,
		data: uint64(pid)})
	return err
}

// Stop removes the block device once all of its requests are answered. It works whether the server
// lives or not.
func (c *Control) Stop(ctx context.Context, id int) error {
	_, err := c.command(ctx, command{name: "STOP_DEV", op: uapi.CmdStopDev, id: id})
	return err
}

// TryStop is Stop, but returns ErrBusy if anybody has the block device open. It needs Linux 7.0.
func (c *Control) TryStop(ctx context.Context, id int) error {
	if err := c.require(ctx, FeatureSafeStop); err != nil {
		return err
	}
	_, err := c.command(ctx, command{name: "TRY_STOP_DEV", op: uapi.CmdTryStopDev, id: id})
	return err
}

// Delete removes a device, and stops it first if necessary. It waits until the number of the device
// is free: the server has closed its end, and nobody has the block device open any more. If that
// takes too long the error is a *HeldOpenError. The device then vanishes by itself when its last
// holder closes it.
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

// StartRecovery begins to give a quiesced device to a new server. It returns ErrBusy as long as the
// old server is there. Recover tries again for that reason.
func (c *Control) StartRecovery(ctx context.Context, id int) error {
	_, err := c.command(ctx, command{name: "START_USER_RECOVERY", op: uapi.CmdStartUserRecovery,
		id: id})
	return err
}

// EndRecovery makes the device live again under the server pid. It waits until all queues have
// fetched.
func (c *Control) EndRecovery(ctx context.Context, id, pid int) error {
	_, err := c.command(ctx, command{name: "END_USER_RECOVERY", op: uapi.CmdEndUserRecovery, id: id,
		data: uint64(pid)})
	return err
}

// Quiesce takes a live device away from its server, so that another server can recover it. No user
// sees an error. The server's tags end as they do at a stop, except those that it is answering at
// that time. within, a millisecond or more, bounds how long the kernel waits for the server to have
// a free tag. ErrBusy says that it had none. It needs Linux 6.16.
//
// The kernel does not keep that bound, because it counts the wrong requests (ublk_count_busy_req in
// drivers/block/ublk_drv.c, up to 7.3 at least). If the server holds all tags of a queue, that
// queue is not told. It then gets no more requests and does not know of the quiesce. A caller that
// wants the server to end must check whether it ends, and otherwise call Quiesce again.
func (c *Control) Quiesce(ctx context.Context, id int, within time.Duration) error {
	if err := c.require(ctx, FeatureQuiesce); err != nil {
		return err
	}
	// The kernel takes milliseconds, and 0 for no limit.
	ms := uint64(max(within, time.Millisecond).Milliseconds())
	_, err := c.command(ctx, command{name: "QUIESCE_DEV", op: uapi.CmdQuiesceDev, id: id, data: ms})
	return err
}

// UpdateSize resizes a device, live or not, to size bytes. It needs Linux 6.16.
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

// bytesOf returns the bytes of a struct of the ABI. The command gets a copy of them.
func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)),
		unsafe.Sizeof(*v))
}
