package server

import (
	"errors"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

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
	durable  bool // RWF_DSYNC
	device   uint8
	offset   int64
	data     []byte
}

// done is how a job ended.
type done struct {
	job
	errno unix.Errno // 0: all of data was moved
}

// workers are threads for blocking I/O, started before the device is live:
// afterwards no thread may have to be made to get I/O done.
type workers struct {
	fds  []int // of the devices
	wake func()

	mu      sync.Mutex
	more    sync.Cond
	jobs    []job
	results []done
	away    []done
	ending  bool
	ended   sync.WaitGroup
}

// startWorkers starts the threads; wake is called when a result is there.
func startWorkers(fds []int, wake func()) *workers {
	w := &workers{fds: fds, wake: wake, jobs: make([]job, 0, 64), results: make([]done, 0, 64), away: make([]done, 0, 64)}
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

		errno := w.do(&j)

		w.mu.Lock()
		w.results = append(w.results, done{job: j, errno: errno})
		w.mu.Unlock()
		w.wake()
	}
}

// do moves all of a job's data, or says why not.
func (w *workers) do(j *job) unix.Errno {
	data, offset := j.data, j.offset
	flags := 0
	if j.durable {
		flags = unix.RWF_DSYNC
	}
	for len(data) > 0 {
		var n int
		var err error
		if j.read {
			n, err = unix.Pread(w.fds[j.device], data, offset)
		} else {
			n, err = unix.Pwritev2(w.fds[j.device], [][]byte{data}, offset, flags)
		}
		var errno unix.Errno
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.As(err, &errno):
			return errno
		case err != nil || n == 0:
			return unix.EIO
		}
		data, offset = data[n:], offset+int64(n)
	}
	return 0
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
