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
	// IOFlusher marks the queue threads with PR_SET_IO_FLUSHER: when they need memory, the
	// kernel does not wait for I/O of a device that they serve. Needs CAP_SYS_RESOURCE.
	IOFlusher bool
	// HugePages asks for transparent huge pages for the copy buffers. All of them are then
	// present from the start, Queues × Depth × MaxIO bytes, and the kernel looks up fewer
	// pages for large requests. With zero copy there are no such buffers.
	HugePages bool
	// Poll is the longest time that a queue's thread polls for completions before it sleeps.
	// This avoids a wake-up if another completion comes soon, and uses a CPU for up to that
	// time. An idle device does not poll. 0: the thread sleeps at once.
	Poll time.Duration
	// Stay is how many bytes at the start of each tag's copy buffer are always present in
	// memory. Larger requests are possible only as far as Device.Grant allows. 0 means the
	// whole buffer. With zero copy and batch I/O it is always the whole buffer.
	Stay int
	// Outgrown is called on a queue's thread when a request is as large as it can be at the
	// moment, at most once for each queue until the next Grant. It must not block.
	Outgrown func()
	// WriteLimit writes text to path, the attribute of sysfs that limits how large a request can
	// be, for Device.Grant. The write waits until no request is under way (blk_mq_freeze_queue),
	// and nothing can interrupt it. If this process is killed meanwhile, nobody answers those
	// requests, so a thread of it that writes never ends, and no other server can recover the
	// device. So WriteLimit should have another process write. nil: this process does.
	WriteLimit func(path, text string) error
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
	d.limitWriter = opts.WriteLimit
	char, err := openChar(ctx, d.info.CharPath())
	if err != nil {
		return fmt.Errorf("ublk: device %d: %w", d.info.ID, err)
	}
	defer char.Close()
	queues, err := d.makeQueues(ctx, int(char.Fd()), &opts)
	if err != nil {
		return err
	}
	threads := d.startThreads(queues, target)
	defer func() { err = errors.Join(err, threads.end()) }()
	if !threads.fetchedAll() {
		d.abandon()
		return nil // threads.end says why
	}
	if err := d.goLive(ctx); err != nil {
		d.abandon()
		return err
	}
	return d.awaitEnd(ctx, threads, opts.StopTimeout)
}

// makeQueues makes the queues of the device, without their threads.
func (d *Device) makeQueues(ctx context.Context, charFD int, opts *RunOptions) ([]*Queue, error) {
	queues := make([]*Queue, d.info.Queues)
	for i := range queues {
		q := newQueue(d, i, charFD)
		queues[i] = q
		set, err := d.affinity(ctx, i, opts.Affinity)
		if err != nil {
			return nil, errors.Join(err, closeQueues(queues[:i+1]))
		}
		if q.wakeFile, err = newWakeFile(); err != nil {
			return nil, errors.Join(err, closeQueues(queues[:i+1]))
		}
		q.poller.most = max(opts.Poll, 0)
		q.initBufferMemory(opts.Stay, opts.Outgrown)
		q.thread = threadOptions{cpus: set, ioFlusher: opts.IOFlusher, hugePages: opts.HugePages}
	}
	return queues, nil
}

// queueThreads are the threads of a running device.
type queueThreads struct {
	d        *Device
	queues   []*Queue
	running  sync.WaitGroup
	fetched  chan error // one value per queue: nil once it has fetched all tags, or an error
	failures chan error
}

func (d *Device) startThreads(queues []*Queue, target Target) *queueThreads {
	t := &queueThreads{d: d, queues: queues, fetched: make(chan error, len(queues)),
		failures: make(chan error, len(queues))}
	d.mu.Lock()
	d.queues = queues
	d.mu.Unlock()
	for _, q := range queues {
		t.running.Go(func() {
			if err := q.start(target, t.fetched); err != nil {
				t.failures <- fmt.Errorf("ublk: device %d, queue %d: %w", d.info.ID, q.id, err)
				d.abandon()
			}
		})
	}
	return t
}

// fetchedAll waits until all queues have fetched, and reports false if one has failed.
func (t *queueThreads) fetchedAll() bool {
	for range t.queues {
		if <-t.fetched != nil {
			return false
		}
	}
	return true
}

// end waits until the threads have ended, gives everything back and returns their failures.
func (t *queueThreads) end() (err error) {
	t.running.Wait()
	t.d.mu.Lock()
	t.d.queues = nil
	t.d.mu.Unlock()
	close(t.failures)
	for e := range t.failures {
		err = errors.Join(err, e)
	}
	return errors.Join(err, closeQueues(t.queues))
}

// abandon ends the queues and leaves their requests to another server.
func (d *Device) abandon() {
	d.leaving.Store(true)
	d.Wakeup()
}

// goLive starts the device, or ends its recovery, once all queues have fetched.
func (d *Device) goLive(ctx context.Context) error {
	if d.stopping.Load() || d.leaving.Load() {
		return fmt.Errorf("ublk: device %d: stopped before it was live: %w", d.info.ID, ErrClosed)
	}
	start := d.ctl.Start
	if d.recover {
		start = d.ctl.EndRecovery
		// Requests come again that are as large as the limit of the last server allows.
		if err := d.adoptLimit(); err != nil {
			return err
		}
	}
	if err := start(ctx, d.info.ID, os.Getpid()); err != nil {
		return err
	}
	close(d.ready)
	return nil
}

// awaitEnd waits until the threads have ended, or stops the device when ctx ends.
func (d *Device) awaitEnd(ctx context.Context, threads *queueThreads,
	stopTimeout time.Duration) error {
	done := make(chan struct{})
	go func() {
		threads.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	if stopTimeout <= 0 {
		stopTimeout = DefaultTimeout
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	d.stopping.Store(true)
	d.Wakeup()
	if err := d.ctl.Stop(stop, d.info.ID); err != nil {
		// Something holds a request, perhaps for ever. The requests stay with the kernel.
		d.abandon()
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

// openChar opens the character device. It tries again for a few seconds: udev may not have made
// the node yet, and after a recovery the kernel may not have released it yet.
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
