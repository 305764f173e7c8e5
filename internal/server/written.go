package server

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
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
	// udevs is where udev keeps what it knows of devices.
	udevs = "/run/udev"
	// udevNeeds is the room, in bytes, that udev has to find there. A device takes a few pages.
	udevNeeds = 256 << 10
	// roomPause is how often the room is looked at while there is none.
	roomPause = time.Second
)

// writtenWatch looks at the node of a device and at those of its partitions.
type writtenWatch struct {
	file   *os.File // of inotify
	name   string   // of the device: ublkbN
	inSys  string   // the directory of block devices in sysfs
	byID   map[int32]string
	events [4096]byte
	ended  chan struct{}
	room   func() bool // whether udev can keep what it learns

	mu      sync.Mutex
	waiting map[string]bool // devices of which udev will be told once there is room
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
		byID: map[int32]string{}, ended: make(chan struct{}),
		room: func() bool { return udevHasRoom(udevs) }, waiting: map[string]bool{}}
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
//
// If udev has no room to keep what it learns, it forgets all that it knew of the device, with its
// links. systemd unmounts file systems of such a device at the next daemon-reload. So udev is told
// only once there is room again.
func (w *writtenWatch) tell(name string) {
	if w == nil {
		return
	}
	if w.room() {
		w.change(name)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.waiting[name] {
		w.waiting[name] = true
		go w.tellLater(name)
	}
}

// tellLater tells udev of a device once there is room, unless the watch ends before.
func (w *writtenWatch) tellLater(name string) {
	for !w.room() {
		select {
		case <-w.ended:
			return
		case <-time.After(roomPause):
		}
	}
	w.mu.Lock()
	delete(w.waiting, name)
	w.mu.Unlock()
	w.change(name)
}

func (w *writtenWatch) change(name string) {
	// Only udev loses something if this fails.
	_ = os.WriteFile(filepath.Join(w.inSys, name, "uevent"), []byte("change"), 0)
}

// udevHasRoom reports whether a directory's file system has room for what udev keeps of a device.
// A file system that tells no limit has room.
func udevHasRoom(dir string) bool {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return true
	}
	return (st.Blocks == 0 || st.Bavail*uint64(st.Bsize) >= udevNeeds) &&
		(st.Files == 0 || st.Ffree >= udevNeeds/4096)
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
