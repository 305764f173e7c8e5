package ublk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Affinity says where queue threads may run.
type Affinity uint8

const (
	// AffinityQueue lets a queue's thread run on the CPUs whose requests come to it.
	AffinityQueue Affinity = iota
	// AffinitySingle pins it to one of them.
	AffinitySingle
	// AffinityNone leaves it to the scheduler.
	AffinityNone
)

// RunOptions are the ways to run a device. The zero value is good for most.
type RunOptions struct {
	Affinity Affinity
	// IOFlusher marks the queue threads with PR_SET_IO_FLUSHER, so that memory that they
	// need is never waited for by way of a device that they serve. Needs CAP_SYS_RESOURCE.
	IOFlusher bool
	// HugePages asks for transparent huge pages for the buffers that requests are copied
	// through. All of them are present from the start on then, Queues × Depth × MaxIO
	// bytes, and the kernel has less to look up for large requests. With zero copy there
	// are no such buffers.
	HugePages bool
	// Poll is the longest that a queue's thread looks for completions before it sleeps,
	// which spares the wake-up where another one comes soon. It takes a CPU for up to as
	// long, each time; an idle device costs nothing all the same. 0: it sleeps at once.
	Poll time.Duration
	// Stay is how many bytes at the start of each tag's copy buffer are always memory. A
	// request can be larger only as far as Device.Grant allows. 0, and always with zero
	// copy or batch I/O: as large as the device's MaxIO.
	Stay int
	// Outgrown is called on a queue's thread when a request is as large as it can be at the
	// moment, at most once for each queue until the next Grant. It must not block.
	Outgrown func()
	// StopTimeout bounds the stop when Run's context ends; 0 is DefaultTimeout.
	StopTimeout time.Duration
}

// Run serves the device until it is stopped: it starts a thread per queue, makes the device
// live once all of them wait for requests, and returns when all have ended and everything
// is given back. That is nil after Stop, Leave, a stop from outside or the end of ctx,
// which stops the device too. Run can be called once.
//
// An error before Ready says why the device did not start; it can be deleted, or recovered
// if it was to be recovered. If a queue fails later, all are ended as by Leave.
func (d *Device) Run(ctx context.Context, target Target, opts RunOptions) (err error) {
	if d.ran.Swap(true) {
		return fmt.Errorf("ublk: device %d: run twice", d.info.ID)
	}
	defer close(d.ended)
	if strings.Contains(os.Getenv("GODEBUG"), "asyncpreemptoff=1") {
		return ErrPreemptOff
	}
	char, err := openChar(ctx, d.info.CharPath())
	if err != nil {
		return fmt.Errorf("ublk: device %d: %w", d.info.ID, err)
	}
	defer char.Close()

	var (
		threads  sync.WaitGroup
		fetched  = make(chan error, d.info.Queues) // one per queue: nil, or why not
		failures = make(chan error, d.info.Queues)
	)
	queues := make([]*Queue, d.info.Queues)
	for i := range queues {
		q := newQueue(d, i, int(char.Fd()))
		queues[i] = q
		set, err := d.affinity(ctx, i, opts.Affinity)
		if err != nil {
			return errors.Join(err, closeQueues(queues[:i+1]))
		}
		if q.wakeFile, err = newWakeFile(); err != nil {
			return errors.Join(err, closeQueues(queues[:i+1]))
		}
		q.poller.most = max(opts.Poll, 0)
		q.setRoom(opts.Stay, opts.Outgrown)
		q.thread = threadOptions{cpus: set, ioFlusher: opts.IOFlusher, hugePages: opts.HugePages}
	}
	d.mu.Lock()
	d.queues = queues
	d.mu.Unlock()
	for _, q := range queues {
		threads.Go(func() {
			if err := q.start(target, fetched); err != nil {
				failures <- fmt.Errorf("ublk: device %d, queue %d: %w", d.info.ID, q.id, err)
				d.leaving.Store(true)
				d.Wakeup()
			}
		})
	}
	defer func() {
		threads.Wait()
		d.mu.Lock()
		d.queues = nil
		d.mu.Unlock()
		close(failures)
		for e := range failures {
			err = errors.Join(err, e)
		}
		err = errors.Join(err, closeQueues(queues))
	}()
	abandon := func() {
		d.leaving.Store(true)
		d.Wakeup()
	}
	for range queues {
		if <-fetched != nil {
			abandon()
			return nil // the failure is among those collected above
		}
	}
	if d.stopping.Load() || d.leaving.Load() {
		abandon()
		return fmt.Errorf("ublk: device %d: stopped before it was live: %w", d.info.ID, ErrClosed)
	}
	start := d.ctl.Start
	if d.recover {
		start = d.ctl.EndRecovery
		// Requests come again that were as large as the last server has let them be.
		if err := d.adoptLimit(); err != nil {
			abandon()
			return err
		}
	}
	if err := start(ctx, d.info.ID, os.Getpid()); err != nil {
		abandon()
		return err
	}
	close(d.ready)

	done := make(chan struct{})
	go func() {
		threads.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	timeout := opts.StopTimeout
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	d.stopping.Store(true)
	d.Wakeup()
	if err := d.ctl.Stop(stop, d.info.ID); err != nil {
		// Something holds a request. To wait here for ever helps nobody; the requests stay
		// with the kernel.
		abandon()
		return err
	}
	return nil
}

// affinity gives the CPUs of a queue's thread, or an empty set for any.
func (d *Device) affinity(ctx context.Context, queue int, how Affinity) (set unix.CPUSet,
	err error) {
	if how == AffinityNone {
		return set, nil
	}
	set, err = d.ctl.QueueAffinity(ctx, d.info.ID, queue)
	if err != nil || how == AffinityQueue {
		return set, err
	}
	for cpu := range len(set) * 64 {
		if set.IsSet(cpu) {
			set.Zero()
			set.Set(cpu)
			break
		}
	}
	return set, nil
}

// openChar opens the server's end. The node may still be on its way (udev), and after a
// recovery the kernel may not have let go of it.
func openChar(ctx context.Context, path string) (*os.File, error) {
	deadline := time.Now().Add(5 * time.Second)
	for {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err == nil {
			return os.NewFile(uintptr(fd), path), nil
		}
		retry := err == unix.ENOENT || err == unix.EBUSY || err == unix.EINTR || err == unix.EACCES
		if !retry || time.Now().After(deadline) || ctx.Err() != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		time.Sleep(time.Millisecond)
	}
}

func closeQueues(queues []*Queue) error {
	var errs []error
	for _, q := range queues {
		errs = append(errs, q.release())
	}
	return errors.Join(errs...)
}
