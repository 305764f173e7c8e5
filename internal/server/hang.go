package server

import (
	"fmt"
	"sync/atomic"
	"time"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
)

// Since when no I/O comes back.
//
// The kernel counts for every block device what is under way and what has come back. That
// is looked at once a second; the path of an I/O has no part in it. A disk that has
// something under way and from which nothing has come back between two looks has been
// waited for since the first of these, at the latest.

const (
	hangPoll = time.Second
	// hangTold is how long nothing must have come back to be worth saying: a drive takes
	// seconds over a bad sector.
	hangTold = 3 * time.Second
)

// hangWatch looks at the disks of a set. Its files were opened before anything could hang.
type hangWatch struct {
	disks []*hangDisk
	stop  chan struct{}
	ended chan struct{}
}

type hangDisk struct {
	path  string
	file  *blockdev.ActivityFile
	last  blockdev.Activity
	since atomic.Int64 // Unix nanoseconds; 0: not waiting. A status reads it.
}

// watchHangs begins to look at these disks. One that the kernel does not count for is left out.
func watchHangs(paths ...string) *hangWatch {
	w := &hangWatch{stop: make(chan struct{}), ended: make(chan struct{})}
	for _, path := range paths {
		if f, err := blockdev.OpenActivity(path); err == nil {
			w.disks = append(w.disks, &hangDisk{path: path, file: f})
		}
	}
	go w.run()
	return w
}

func (w *hangWatch) run() {
	defer close(w.ended)
	tick := time.NewTicker(hangPoll)
	defer tick.Stop()
	for before := time.Now(); ; {
		select {
		case <-w.stop:
			return
		case now := <-tick.C:
			for _, d := range w.disks {
				if a, err := d.file.Read(); err == nil {
					d.look(a, before)
				}
			}
			before = now
		}
	}
}

// look takes what the kernel counts now. before is when it was looked at last.
func (d *hangDisk) look(a blockdev.Activity, before time.Time) {
	switch {
	case a.InFlight == 0 || a.Done != d.last.Done || d.last.InFlight == 0:
		d.since.Store(0)
	case d.since.Load() == 0:
		d.since.Store(before.UnixNano())
	}
	d.last = a
}

// close ends it. It may be called on nil.
func (w *hangWatch) close() {
	if w == nil {
		return
	}
	close(w.stop)
	<-w.ended
	for _, d := range w.disks {
		_ = d.file.Close()
	}
}

// waiting returns the first disk that is waited for long enough to be worth telling of, and
// since when; nil if there is none.
func (w *hangWatch) waiting(now time.Time) (disk *hangDisk, since time.Time) {
	if w == nil {
		return nil, since
	}
	for _, d := range w.disks {
		if n := d.since.Load(); n != 0 && now.Sub(time.Unix(0, n)) >= hangTold {
			return d, time.Unix(0, n)
		}
	}
	return nil, since
}

// tell adds it to a status.
func (w *hangWatch) tell(st *control.Status, now time.Time) {
	disk, since := w.waiting(now)
	if disk == nil {
		return
	}
	utc := since.UTC().Truncate(time.Second)
	st.WaitingSince = &utc
	reason := fmt.Sprintf("nothing has come back from %s for %s, though I/O is under way",
		disk.path, now.Sub(since).Round(time.Second))
	action := "wait: a drive can take minutes over a bad sector; if it stays so, look at its " +
		"cables and at what the kernel says (dmesg)"
	if st.Reason != "" {
		reason, action = reason+"; "+st.Reason, action+"; "+st.Action
	}
	st.Reason, st.Action = reason, action
}
