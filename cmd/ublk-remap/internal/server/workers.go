package server

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/internal/blockdev"
	"ublkremap/metadata"
	"ublkremap/remap"
)

// workerCount is how many of the keeper's writes can be under way at once: a
// record on each of three mirrors, a part of a checkpoint and a transfer.
const workerCount = 5

// job is a blocking operation that the keeper wants done.
type job struct {
	op       metadata.OpID // of the Committer, or
	transfer uint64        // of the Arbiter, if isTransfer
	isTransf bool
	read     bool
	durable  bool // a flush follows the write
	device   uint8
	offset   int64
	data     []byte
}

// done is how a job ended.
type done struct {
	job
	errno unix.Errno // 0: all of data was moved, and is durable if it was to be
	// unflushed: it was written, and its flush failed, or another one meanwhile.
	unflushed bool
}

// disks are the system calls on the devices of a set, by index.
type disks interface {
	pread(device uint8, p []byte, off int64) (int, error)
	pwrite(device uint8, p []byte, off int64) (int, error)
	fdatasync(device uint8) error
}

// descriptors are open devices.
type descriptors []int

// descriptorsOf are the devices' descriptors, which stay theirs.
func descriptorsOf(devices []*blockdev.Device) descriptors {
	fds := make(descriptors, len(devices))
	for i, d := range devices {
		fds[i] = d.FD()
	}
	return fds
}

func (d descriptors) pread(device uint8, p []byte, off int64) (int, error) {
	return unix.Pread(d[device], p, off)
}

func (d descriptors) pwrite(device uint8, p []byte, off int64) (int, error) {
	return unix.Pwrite(d[device], p, off)
}

func (d descriptors) fdatasync(device uint8) error { return unix.Fdatasync(d[device]) }

// workers are threads for blocking I/O, started before the device is live:
// afterwards no thread may have to be made to get I/O done.
type workers struct {
	disks    disks
	shared   *remap.Shared
	patience metadata.RetryLimits
	wake     func()

	mu      sync.Mutex
	more    sync.Cond
	jobs    []job
	results []done
	away    []done
	ending  bool
	ended   sync.WaitGroup
}

// startWorkers starts the threads; wake is called when a result is there.
func startWorkers(d disks, shared *remap.Shared, patience metadata.RetryLimits, wake func()) *workers {
	w := &workers{disks: d, shared: shared, patience: patience, wake: wake,
		jobs: make([]job, 0, 64), results: make([]done, 0, 64), away: make([]done, 0, 64)}
	w.more.L = &w.mu
	var running sync.WaitGroup
	for range workerCount {
		running.Add(1)
		w.ended.Go(func() {
			// The thread has a mark of its own and ends with the goroutine.
			runtime.LockOSThread()
			setIOFlusher()
			running.Done()
			w.run()
		})
	}
	running.Wait()
	return w
}

// submit hands over a job. Jobs are begun in order and may overtake each other.
func (w *workers) submit(j job) {
	w.mu.Lock()
	w.jobs = append(w.jobs, j)
	w.mu.Unlock()
	w.more.Signal()
}

// take returns what has ended since the last take, valid until the next.
func (w *workers) take() []done {
	w.mu.Lock()
	w.results, w.away = w.away[:0], w.results
	w.mu.Unlock()
	return w.away
}

// stop ends the threads once all jobs are done.
func (w *workers) stop() {
	w.mu.Lock()
	w.ending = true
	w.mu.Unlock()
	w.more.Broadcast()
	w.ended.Wait()
}

func (w *workers) run() {
	for {
		w.mu.Lock()
		for len(w.jobs) == 0 && !w.ending {
			w.more.Wait()
		}
		if len(w.jobs) == 0 {
			w.mu.Unlock()
			return
		}
		j := w.jobs[0]
		w.jobs = append(w.jobs[:0], w.jobs[1:]...)
		w.mu.Unlock()

		errno, unflushed := w.do(&j)

		w.mu.Lock()
		w.results = append(w.results, done{job: j, errno: errno, unflushed: unflushed})
		w.mu.Unlock()
		w.wake()
	}
}

// settleEvery is how often is asked whether other flushes have ended.
const settleEvery = 50 * time.Microsecond

// do carries out a job. A write that is to be durable and its flush are two system calls, for
// any device: with RWF_DSYNC the kernel would flush too, also where the device has FUA
// (generic_write_sync after blkdev_direct_write, block/fops.c), and answer the write with
// what the flush said. A crash between the two finds a write that nobody was told of.
func (w *workers) do(j *job) (errno unix.Errno, unflushed bool) {
	if !j.durable {
		return w.patiently(j, func() unix.Errno { return w.move(j) }), false
	}
	var flush remap.Flushing
	if errno := w.patiently(j, func() unix.Errno {
		// what was flushed, or not, before this try is of no matter to it
		flush = w.shared.Durable(j.device)
		return w.move(j)
	}); errno != 0 {
		return errno, false
	}
	flush.Begin()
	errno = w.sync(j.device)
	flush.End(-int32(errno))
	if errno != 0 {
		// For want of resources: it was not carried out, and neither is the job.
		return errno, remap.Classify(int32(errno)) != remap.ClassResource
	}
	for !flush.Settled() {
		time.Sleep(settleEvery)
	}
	if !flush.Kept() {
		return unix.EIO, true
	}
	return 0, false
}

// patiently tries a job of the Committer again that fails for something else than the medium, for
// as long as its patience lasts: or a moment without memory, where the data path waits,
// would open the breaker. What waits behind it would wait for the same. A transfer is the
// Arbiter's to judge.
func (w *workers) patiently(j *job, try func() unix.Errno) unix.Errno {
	var retry metadata.Retry
	for {
		errno := try()
		if errno == 0 || j.isTransf {
			return errno
		}
		pause, again := retry.Next(int32(errno), monotonic(), w.patience)
		if !again || w.ends() {
			return errno
		}
		time.Sleep(pause)
	}
}

// ends reports whether the threads are to end.
func (w *workers) ends() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ending
}

// move moves all of a job's data, or says why not.
func (w *workers) move(j *job) unix.Errno {
	data, offset := j.data, j.offset
	for len(data) > 0 {
		var n int
		var err error
		if j.read {
			n, err = w.disks.pread(j.device, data, offset)
		} else {
			n, err = w.disks.pwrite(j.device, data, offset)
		}
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return errnoOf(err)
		case n == 0:
			return unix.EIO
		}
		data, offset = data[n:], offset+int64(n)
	}
	return 0
}

// sync flushes a device. It is not tried again: what the device could not write it may have
// dropped, and then the next one has nothing to write. One that was interrupted had not
// begun.
func (w *workers) sync(device uint8) unix.Errno {
	for {
		err := w.disks.fdatasync(device)
		switch {
		case err == nil:
			return 0
		case !errors.Is(err, unix.EINTR):
			return errnoOf(err)
		}
	}
}

func errnoOf(err error) unix.Errno {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return unix.EIO
}

// failure says why an operation of the Committer failed.
func (d *done) failure(path string) error {
	what := "write"
	if d.read {
		what = "read"
	}
	if d.unflushed {
		return fmt.Errorf("%s: %w after a write of %d bytes at %d: %w", path, metadata.ErrFlush,
			len(d.data), d.offset, d.errno)
	}
	return fmt.Errorf("%s: %s of %d bytes at %d: %w", path, what, len(d.data), d.offset, d.errno)
}

// result is what the Arbiter wants to know of a transfer.
func (d *done) result() int32 {
	if d.errno != 0 {
		return -int32(d.errno)
	}
	return int32(len(d.data))
}

// jobOf makes a job of a relocation's transfer.
func jobOf(t *remap.Transfer) job {
	return job{
		transfer: t.ID, isTransf: true, read: t.Op == remap.OpRead, durable: t.FUA,
		device: t.Device, offset: t.Offset, data: t.Data,
	}
}
