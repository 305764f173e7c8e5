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

// What is left of a recovery whose server died before all of its queues had fetched, and
// how it is made recoverable.
//
// START_USER_RECOVERY forgets the threads of the dead server. Before Linux 6.16 it takes
// for granted that there is one for each queue (ublk_ctrl_start_recovery and
// ublk_queue_reinit in drivers/block/ublk_drv.c of 6.12): if no queue has fetched since the
// last recovery began it gives EINVAL, for ever, and if only some have it follows a null
// pointer, and the kernel is lost. Neither can be told from outside, but a fetch tells: a
// queue that has a thread, however dead, refuses everybody else's. So before a recovery
// begins, the queues that nobody has fetched from get a thread that does and ends.

// fetchMissing does that. It waits until the dead server has let go of the device, as long
// as the context allows: ErrBusy. Requests are not lost by it, for none is handed out
// before END_USER_RECOVERY.
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
	// The kernel looks at the thread of each queue, which must be seen to be dying.
	awaitThreadExit(tid)
	if ring != nil {
		err = errors.Join(err, ring.CloseAfterThread())
	}
	return err
}

// openReleased opens the server's end once nobody else has it.
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

// fetchWhole gives all tags of a queue to the kernel, unless the queue has a thread already.
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

// fetchTags reports whether the kernel takes the tags from on, up to but without to.
func fetchTags(ring *uring.Ring, queue, from, to int) (taken bool, err error) {
	for tag := from; tag < to; tag++ {
		s := ring.SQE()
		if s == nil {
			return false, errors.New("no room for its tags")
		}
		p := (*uapi.IOCmd)(uring.Command(s, charIndex, true, uapi.IOFetchReq))
		p.QID, p.Tag = uint16(queue), uint16(tag)
		// Some address is asked for; nothing is ever copied there.
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

// nowhere is never written to.
var nowhere uint64
