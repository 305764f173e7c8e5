package server

import (
	"fmt"
	"sync/atomic"
	"time"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
)

// This file finds out since when no I/O has come back.
//
// The kernel counts, for every block device, what is under way and what has come back. The watch
// reads these counts once a second, outside the I/O path. If a disk has I/O under way and nothing
// has come back between two readings, it has been waited for at least since the first of the two.

const (
	hangPoll = time.Second
	// hangTold is how long nothing must have come back before it is reported. A drive takes seconds
	// for a bad sector.
	hangTold = 3 * time.Second
)

// hangWatch looks at the disks of a set. Its files were opened before anything could hang.
type hangWatch struct {
	disks []*hangDisk
	ask   func() // called as long as I/O is under way, and once more; may be nil
	stop  chan struct{}
	ended chan struct{}
}

type hangDisk struct {
	path  string
	file  *blockdev.ActivityFile
	last  blockdev.Activity
	since atomic.Int64 // Unix nanoseconds; 0: not waiting. A status reads it.
}

// watchHangs begins to watch these disks. It leaves out a disk for which the kernel keeps no
// counts.
func watchHangs(ask func(), paths ...string) *hangWatch {
	w := &hangWatch{ask: ask, stop: make(chan struct{}), ended: make(chan struct{})}
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
	busy := false
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
			if now := w.underWay(); now || busy {
				busy = now
				w.askAges()
			}
		}
	}
}

// underWay reports whether any disk had I/O under way at the last look.
func (w *hangWatch) underWay() bool {
	for _, d := range w.disks {
		if d.last.InFlight > 0 {
			return true
		}
	}
	return false
}

func (w *hangWatch) askAges() {
	if w.ask != nil {
		w.ask()
	}
}

// look takes the kernel's present counts. before is when they were read last.
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

// waiting returns the first disk that has been waited for long enough to be reported, and since
// when; nil if there is none.
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
