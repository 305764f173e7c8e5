package ublk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"ublkremap/ublk/internal/uapi"
	"ublkremap/ublk/internal/uring"
)

// This file makes a device recoverable again after an incomplete recovery: the server that
// recovered it died before all of its queues had fetched.
//
// START_USER_RECOVERY forgets the threads of the dead server. Before Linux 6.16 it assumes that
// there is one thread for each queue (ublk_ctrl_start_recovery and ublk_queue_reinit in
// drivers/block/ublk_drv.c of 6.12). If no queue has fetched since the last recovery began, it
// returns EINVAL, for ever. If only some queues have, it follows a null pointer, and the kernel
// crashes. User space cannot query which case it is, but a fetch shows it: a queue that has a
// thread, dead or not, refuses the fetch of any other thread. So before a recovery begins, the
// queues that have no thread get one that fetches and ends.

// fetchMissing fetches from the queues that have no thread. It waits until the dead server has
// released the device, and returns ErrBusy if the context ends before. No request is lost:
// the kernel hands out none before END_USER_RECOVERY.
func fetchMissing(ctx context.Context, info DeviceInfo) error {
	char, err := openReleased(ctx, info)
	if err != nil {
		return err
	}
	defer char.Close()
	result := make(chan error, 1)
	var tid int
	var ring *uring.Ring
	go onOwnThread(func() {
		tid = unix.Gettid()
		result <- func() (err error) {
			if ring, err = uring.New(uring.QueueRing,
				min(uring.MaxEntries, info.Depth)); err != nil {
				return err
			}
			if err := errors.Join(ring.RegisterFiles(1),
				ring.SetFile(charIndex, int(char.Fd()))); err != nil {
				return err
			}
			for queue := range info.Queues {
				if err := fetchWhole(ring, queue, info.Depth); err != nil {
					return fmt.Errorf("ublk: device %d, queue %d: %w", info.ID, queue, err)
				}
			}
			return nil
		}()
	})
	err = <-result
	// The kernel checks the thread of each queue, and must see that it is exiting.
	awaitThreadExit(tid)
	if ring != nil {
		err = errors.Join(err, ring.CloseAfterThread())
	}
	return err
}

// openReleased opens the character device once no other server has it open.
func openReleased(ctx context.Context, info DeviceInfo) (*os.File, error) {
	for {
		char, err := openChar(ctx, info.CharPath())
		switch {
		case err == nil:
			return char, nil
		case !errors.Is(err, unix.EBUSY):
			return nil, fmt.Errorf("ublk: device %d: %w", info.ID, err)
		case ctx.Err() != nil:
			return nil, fmt.Errorf("ublk: device %d has a server: %w; %w", info.ID, ErrBusy,
				ctx.Err())
		}
	}
}

// fetchWhole fetches all tags of a queue, unless the queue has a thread already.
func fetchWhole(ring *uring.Ring, queue, depth int) error {
	taken, err := fetchTags(ring, queue, 0, 1)
	if err != nil || !taken {
		return err
	}
	if taken, err = fetchTags(ring, queue, 1, depth); err == nil && !taken {
		err = errors.New("it takes some tags and refuses others")
	}
	return err
}

// fetchTags reports whether the kernel accepts fetches of the tags from..to-1.
func fetchTags(ring *uring.Ring, queue, from, to int) (taken bool, err error) {
	for tag := from; tag < to; tag++ {
		s := ring.SQE()
		if s == nil {
			return false, errors.New("no room for its tags")
		}
		p := (*uapi.IOCmd)(uring.Command(s, charIndex, true, uapi.IOFetchReq))
		p.QID, p.Tag = uint16(queue), uint16(tag)
		// The command needs an address. Nothing is ever copied there.
		p.Addr = uint64(uintptr(unsafe.Pointer(&nowhere)))
	}
	if err := ring.SubmitAndWait(0); err != nil {
		return false, err
	}
	var cqe [1]uring.CQE
	taken = true
	for ring.Reap(cqe[:]) > 0 {
		if cqe[0].Res != -int32(unix.EINVAL) {
			return false, fmt.Errorf("the kernel refused a fetch: %w", syscall.Errno(-cqe[0].Res))
		}
		taken = false
	}
	return taken, nil
}

// nowhere is the buffer of these fetches. The kernel never writes to it.
var nowhere uint64
