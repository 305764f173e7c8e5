package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ublkremap/internal/control"
	"ublkremap/ublk"
)

// ErrMemory is returned when the machine, or the control group, has too little memory for a device.
var ErrMemory = errors.New("not enough memory")

// All servers of a host share its memory. A server asks for what it needs at once before its device
// is made. Memory for large requests is granted while enough is left. Otherwise it is given back
// after each of them. See docs/ARCHITECTURE.md, "Memory".
const (
	// processNeeds is what a server takes besides its buffers and its table. It includes some
	// memory for the kernel's part of the device.
	processNeeds = 24 << 20
	// tagNeeds is what a tag takes in this process and in the kernel, besides its buffer.
	tagNeeds = 4 << 10
	// stayTotal is how much of all copy buffers together always stays, if that is more than
	// stayLeast of each.
	stayTotal = 4 << 20
	stayLeast = 16 << 10
	pageSize  = 4 << 10
	// A start leaves one part in leaveShare of all memory untouched.
	leaveShare = 16
)

// memory is what there is, in bytes.
type memory struct {
	total, available int64
	limited          bool // by a control group
}

// memoryNow asks the machine and the control groups of this process.
func memoryNow() (memory, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return memory{}, err
	}
	m := memory{total: meminfo(string(text), "MemTotal"), available: meminfo(string(text),
		"MemAvailable")}
	group, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return m, nil // a kernel without groups
	}
	m.within("/sys/fs/cgroup", string(group))
	return m, nil
}

// meminfo reads a line of proc_meminfo(5), in bytes; 0 if there is none.
func meminfo(text, name string) int64 {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10
		}
	}
	return 0
}

// within applies the limits of the version 2 control group that /proc/self/cgroup names, and the
// limits of the groups that contain it.
func (m *memory) within(root, self string) {
	number := func(dir, name string) (int64, bool) {
		text, err := os.ReadFile(filepath.Join(root, dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			return 0, false
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		return n, err == nil // "max" is no number
	}
	for line := range strings.Lines(self) {
		// cgroups(7): the line of version 2 has hierarchy 0 and no controllers.
		group, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		for ; ok && group != "/" && group != "."; group = filepath.Dir(group) {
			most, ok := number(group, "memory.max")
			if !ok {
				continue
			}
			used, _ := number(group, "memory.current")
			m.limited = true
			m.total, m.available = min(m.total, most), min(m.available, max(most-used, 0))
		}
	}
}

// demand is what a device wants.
type demand struct {
	queues, depth, maxIO int
	copied               bool // the data goes through buffers
	fixed                bool // all buffers are present from the start
}

func (d demand) tags() int64 { return int64(d.queues) * int64(d.depth) }

// stay is how much of each tag's buffer always stays, in bytes; 0: all of it.
func (d demand) stay() int {
	if !d.copied || d.fixed {
		return 0
	}
	return int(min(int64(d.maxIO), max(stayLeast, stayTotal/d.tags()/pageSize*pageSize)))
}

// atOnce is what a device needs to start.
func (d demand) atOnce() int64 {
	n := processNeeds + d.tags()*tagNeeds
	switch {
	case d.copied && d.fixed:
		n += d.buffers()
	case d.copied:
		n += d.tags() * int64(d.stay())
	}
	return n
}

// buffers is the size of all copy buffers.
func (d demand) buffers() int64 {
	if !d.copied {
		return 0
	}
	return d.tags() * int64(d.maxIO)
}

// check refuses a device for which there is too little memory.
func (d demand) check(m memory) error {
	least := d.atOnce()
	most := max(least, processNeeds+d.tags()*tagNeeds+d.buffers())
	if least <= m.available-m.total/leaveShare && most <= m.total/2 {
		return nil
	}
	where := "this machine has"
	if m.limited {
		where = "its control group has"
	}
	return fmt.Errorf("%w: %d queues × %d requests × %s take %s at once and up to %s under load; "+
		"%s %s, of which %s are available; "+
		"use a smaller --queues, --depth or --max-io", ErrMemory, d.queues, d.depth,
		mib(int64(d.maxIO)), mib(least), mib(most), where, mib(m.total), mib(m.available))
}

// mib writes an amount of memory for a person.
func mib(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

// allowance is how much more memory a server may take now for requests that are larger than what
// stays. That memory is locked, and comes back only when the load has ended. So most of what there
// is stays for others.
func allowance(m memory) int64 { return max(0, (m.available-m.total/2)/4) }

// demandOf is what a device will want: the waiting one, or else the one that is to be made.
func (s *server) demandOf(waiting *ublk.DeviceInfo, have ublk.Features) demand {
	d := demand{queues: s.cfg.Queues, depth: s.cfg.Depth, maxIO: s.cfg.MaxIO}
	zero, batch := s.cfg.ZeroCopy != ublk.Never && have.Has(ublk.FeatureAutoBufReg),
		s.cfg.BatchIO == ublk.Require
	if waiting != nil {
		zero, batch = waiting.ZeroCopy(), waiting.BatchIO()
	}
	d.copied, d.fixed = !zero, batch || s.cfg.HugePages
	return d
}

// budget finds out what the device wants, and refuses a device for which the memory is too short. A
// device that exists already is served whatever it takes, because somebody waits for it.
func (s *server) budget(waiting *ublk.DeviceInfo, have ublk.Features, chosen bool) error {
	m, err := memoryNow()
	if err != nil {
		return err
	}
	s.demand = s.demandOf(waiting, have)
	err = s.demand.check(m)
	if waiting != nil {
		if err != nil {
			s.log.Warn().Err(err).Msg("memory is short for this device")
		}
		return nil
	}
	// No user chose the number of queues, so it can be lowered.
	for err != nil && !chosen && s.demand.queues > 1 {
		s.demand.queues--
		err = s.demand.check(m)
	}
	s.cfg.Queues = s.demand.queues
	return err
}

// oneAtATime makes the servers of this host decide one after another, each for a moment at most.
// This is needed because memory that one server was granted is not available to the next. The lock
// is on the runtime directory; nothing is read from it.
func oneAtATime() (release func()) {
	fd, err := unix.Open(control.Dir(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return func() {}
	}
	waitForLock(fd)
	return func() { _ = unix.Close(fd) }
}
