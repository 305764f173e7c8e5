package server

import (
	"errors"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/coordinator"
)

// workerCount is how many of the keeper's operations can be under way at once: a
// record on each of three mirrors, a part of a checkpoint, a transfer, and two pages of the flight
// recorder, which must not keep others waiting when a disk hangs.
const workerCount = 7

// done is how an operation ended, as coordinator.Done is told.
type done struct {
	id  uint64
	res int32
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

// workers are threads for blocking I/O. They are started before the device is live, because
// afterwards I/O must not depend on making a thread. They only carry out system calls. The
// Coordinator decides what a result means, and what comes after it.
type workers struct {
	disks disks
	wake  func()

	mu      sync.Mutex
	more    sync.Cond
	jobs    []coordinator.IO
	results []done
	away    []done
	ending  bool
	ended   sync.WaitGroup
}

// startWorkers starts the threads; wake is called when a result is there.
func startWorkers(d disks, wake func()) *workers {
	w := &workers{disks: d, wake: wake, jobs: make([]coordinator.IO, 0, 64),
		results: make([]done, 0, 64), away: make([]done, 0, 64)}
	w.more.L = &w.mu
	var running sync.WaitGroup
	for range workerCount {
		running.Add(1)
		w.ended.Go(func() {
			// The thread has its own mark, and ends with the goroutine.
			runtime.LockOSThread()
			setIOFlusher()
			running.Done()
			w.run()
		})
	}
	running.Wait()
	return w
}

// submit hands over an operation. Operations are begun in order, and a later one may end before an
// earlier one.
func (w *workers) submit(io coordinator.IO) {
	w.mu.Lock()
	w.jobs = append(w.jobs, io)
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

// stop ends the threads once all operations are done.
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
		io := w.jobs[0]
		w.jobs = append(w.jobs[:0], w.jobs[1:]...)
		w.mu.Unlock()

		res := w.do(&io)

		w.mu.Lock()
		w.results = append(w.results, done{io.ID, res})
		w.mu.Unlock()
		w.wake()
	}
}

// do carries out an operation: one system call. A call that was interrupted had not begun, so it is
// made again. A call that failed is not.
func (w *workers) do(io *coordinator.IO) int32 {
	for {
		var n int
		var err error
		switch io.Kind {
		case coordinator.Read:
			n, err = w.disks.pread(io.Device, io.Data, io.Offset)
		case coordinator.Write:
			n, err = w.disks.pwrite(io.Device, io.Data, io.Offset)
		case coordinator.Flush:
			err = w.disks.fdatasync(io.Device)
		}
		switch {
		case err == nil:
			return int32(n)
		case !errors.Is(err, unix.EINTR):
			return -int32(errnoOf(err))
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
