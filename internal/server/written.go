package server

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// This file tells udev when somebody has written to the device, so that what is on it now gets its
// links: by-uuid after mkfs, for example.
//
// For other disks udev does that itself, by a watch on the node of the device. But udev's watch
// continues when the server is dead. When a program closes the device then, udev opens it, and a
// worker of udev, or all of udev, waits until there is a server. So packaging/udev has "nowatch",
// and the server has a watch of its own, which ends with the server.

const (
	nodes = "/dev"
	// writtenPause collects several closes by one program.
	writtenPause = 50 * time.Millisecond
)

// writtenWatch looks at the node of a device and at those of its partitions.
type writtenWatch struct {
	file   *os.File // of inotify
	name   string   // of the device: ublkbN
	inSys  string   // the directory of block devices in sysfs
	byID   map[int32]string
	events [4096]byte
	ended  chan struct{}
}

// watchWritten begins to watch the device called name. It returns nil if that cannot be done: in a
// container, for example, udev is not there either.
func watchWritten(name string) *writtenWatch {
	w, err := newWrittenWatch(nodes, "/sys/class/block", name)
	if err != nil {
		return nil
	}
	go w.run(nodes)
	return w
}

func newWrittenWatch(dir, inSys, name string) (*writtenWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	w := &writtenWatch{file: os.NewFile(uintptr(fd), "inotify"), name: name, inSys: inSys,
		byID: map[int32]string{}, ended: make(chan struct{})}
	// Nodes of partitions come and go.
	if err := errors.Join(w.add(dir, unix.IN_CREATE|unix.IN_ONLYDIR),
		w.add(filepath.Join(dir, name), unix.IN_CLOSE_WRITE)); err != nil {
		return nil, errors.Join(err, w.file.Close())
	}
	parts, _ := filepath.Glob(filepath.Join(dir, name+"p*"))
	for _, p := range parts {
		_ = w.add(p, unix.IN_CLOSE_WRITE) // it may be gone
	}
	return w, nil
}

func (w *writtenWatch) add(path string, mask uint32) error {
	conn, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	var id int
	if closed := conn.Control(func(fd uintptr) {
		id, err = unix.InotifyAddWatch(int(fd), path, mask)
	}); closed != nil {
		return closed
	}
	if err == nil {
		w.byID[int32(id)] = filepath.Base(path)
	}
	return err
}

// run handles events until the watch is closed.
func (w *writtenWatch) run(dir string) {
	defer close(w.ended)
	for {
		n, err := w.file.Read(w.events[:])
		if err != nil {
			return
		}
		written := w.handle(dir, w.events[:n])
		if len(written) == 0 {
			continue
		}
		time.Sleep(writtenPause)
		for _, name := range written {
			w.tell(name)
		}
	}
}

// tell has udev look at a device. It may be called on nil.
func (w *writtenWatch) tell(name string) {
	if w != nil {
		// Only udev loses something if this fails.
		_ = os.WriteFile(filepath.Join(w.inSys, name, "uevent"), []byte("change"), 0)
	}
}

// handle returns the names of the devices that were written to, and begins to watch partitions
// that are new.
func (w *writtenWatch) handle(dir string, events []byte) (written []string) {
	for len(events) >= unix.SizeofInotifyEvent {
		e := (*unix.InotifyEvent)(unsafe.Pointer(unsafe.SliceData(events)))
		name := strings.TrimRight(string(events[unix.SizeofInotifyEvent:][:e.Len]), "\x00")
		switch {
		case e.Mask&unix.IN_IGNORED != 0:
			delete(w.byID, e.Wd)
		case e.Mask&unix.IN_CREATE != 0 && strings.HasPrefix(name, w.name+"p"):
			_ = w.add(filepath.Join(dir, name), unix.IN_CLOSE_WRITE)
		case e.Mask&unix.IN_CLOSE_WRITE != 0:
			if node := w.byID[e.Wd]; node != "" && !slices.Contains(written, node) {
				written = append(written, node)
			}
		}
		events = events[unix.SizeofInotifyEvent+e.Len:]
	}
	return written
}

// close ends the watch. It may be called on nil.
func (w *writtenWatch) close() {
	if w != nil {
		_ = w.file.Close()
		<-w.ended
	}
}
