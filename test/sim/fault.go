package sim

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"
)

// fault is what is wrong with a range of sectors.
type fault struct {
	read, write bool  // which operations fail
	errno       int32 // with what, positive
	left        int   // how many more operations fail; negative: all
	heals       bool  // a sector that is written is good again
	lands       bool  // a write that fails may have been carried out anyway
	// slow is how long an operation takes to fail, in ns; drags how long a read takes that goes
	// well.
	slow, drags int64
	// cache, if not 0: writes reach the drive's cache only. It answers reads of the sector until so
	// many other reads, or a power cut, have displaced that.
	cache int
	// The fault begins after so many reads of its disk: a sector that is well at first. wakes is
	// the number of the read.
	sleeps, wakes uint64
}

func (f *fault) String() string {
	s := syscall.Errno(f.errno).Error()
	for _, p := range []struct {
		on   bool
		name string
	}{{f.read, " on read"}, {f.write, " on write"}, {f.heals, ", heals on write"},
		{f.left > 0, fmt.Sprintf(", %d times", f.left)},
		{f.slow > 0, fmt.Sprintf(", after %v", time.Duration(f.slow))},
		{f.drags > 0, fmt.Sprintf(" slow, %v", time.Duration(f.drags))},
		{f.cache > 0, fmt.Sprintf(", answers %d reads from its cache", f.cache)},
		{f.sleeps > 0, fmt.Sprintf(", %d reads later", f.sleeps)}} {
		if p.on {
			s += p.name
		}
	}
	return s
}

// The errnos of a medium that fails, of a path that fails, of resources that are short, and of a
// disk that is gone. See remap.Classify.
var (
	mediumErrnos = []syscall.Errno{syscall.ENODATA, syscall.EREMOTEIO, syscall.EIO, syscall.EIO}
	pathErrnos   = []syscall.Errno{syscall.ENOLINK, syscall.ETIMEDOUT, syscall.ENODEV,
		syscall.ENXIO, syscall.ETIME, syscall.EBADE, syscall.EILSEQ, syscall.EOPNOTSUPP,
		syscall.EINVAL, syscall.ENOSPC, syscall.EROFS, syscall.EPERM}
	resourceErrnos = []syscall.Errno{syscall.EAGAIN, syscall.ENOMEM, syscall.EBUSY}
	vanishErrnos   = []syscall.Errno{syscall.EIO, syscall.EIO, syscall.ENODEV, syscall.ENXIO,
		syscall.ENOLINK}
)

func pick[T any](rng *rand.Rand, list []T) T { return list[rng.IntN(len(list))] }

// newFault draws one of the ways in which media fail.
func newFault(rng *rand.Rand) *fault {
	f := &fault{errno: int32(pick(rng, mediumErrnos)), left: -1, lands: rng.IntN(4) == 0}
	if rng.IntN(6) == 0 { // a drive that tries long before it gives up
		f.slow = int64(time.Duration(pick(rng, []int{3, 7, 30, 120})) * time.Second)
	}
	switch rng.IntN(8) {
	case 0: // null_blk's bad blocks, dm-error
		f.read, f.write = true, true
	case 1: // writes fail, what was there still reads
		f.write = true
	case 2: // a latent error: the next write ends it
		f.read, f.heals = true, true
	case 3: // scsi_debug: writes succeed, reads fail
		f.read = true
	case 4: // the fault goes away by itself
		f.read, f.write, f.left = true, true, 1+rng.IntN(8)
	case 5: // bad until written a few times: fails writes k times, then good
		f.write, f.left = true, 1+rng.IntN(4)
	case 6: // what is written lies in the cache only
		f.read, f.cache = true, 1+rng.IntN(3)
	case 7: // well for a while
		f.read, f.write, f.sleeps = true, rng.IntN(2) == 0, 1+rng.Uint64N(60)
	}
	return f
}

// rates are the chances, of 1000, that an operation of a disk fails although nothing is wrong with
// its sectors.
type rates struct {
	resource, path, short, flush int
}

// ioKind is what an operation does to a disk.
type ioKind uint8

const (
	ioRead ioKind = iota
	ioWrite
	ioZero
	ioDiscard
	ioFlush
)

var ioNames = [...]string{"read", "write", "zero", "discard", "flush"}

// diskIO is one operation under way.
type diskIO struct {
	d    *disk
	kind ioKind
	fua  bool
	off  int64
	n    int64
	data []byte // read into or written from

	done      int64  // bytes that have taken effect
	unflushed bool   // a flush failed: the operation is one, or the kernel made one of it
	seq       uint64 // ioFlush: what was in the cache when it was issued
	whom      string // for the trace
	late      uint64 // BugEarlyCheckpoint: see disk.late
	slot      int    // its place in sim.ios
	slow      int64  // how long it took, in ns, if that is long
	readBack  bool   // it proves a heal: its data is not used
	asks      bool   // the Arbiter asks by it whether the disk is present

	req   *userReq // whose it is; nil: a relocation's or the journal's
	block uint64   // req's first block that it is about
}

func (io *diskIO) String() string {
	s := fmt.Sprintf("%s %s disk %d @%d+%d", io.whom, ioNames[io.kind], io.d.index, io.off, io.n)
	if io.fua {
		s += " FUA"
	}
	return s
}

// again is what step answers for an operation that has not ended.
const again = int32(-1 << 30)

// step continues an operation: to its end, and then returns the result, or only a part of it.
// Effects become visible piece by piece, as on a real disk.
func (io *diskIO) step(rng *rand.Rand) int32 {
	d := io.d
	if d.missing != 0 {
		io.unflushed = io.kind == ioFlush
		return -d.missing
	}
	r := d.rates
	if io.kind == ioFlush {
		if r.resource > 0 && rng.IntN(1000) < r.resource {
			return -int32(pick(rng, resourceErrnos)) // it was not carried out
		}
		return io.flush(rng, io.seq, 0)
	}
	if io.done == 0 {
		switch {
		case rng.IntN(1000) < r.resource:
			return -int32(pick(rng, resourceErrnos))
		case rng.IntN(1000) < r.path:
			io.some(rng)
			return -int32(pick(rng, pathErrnos))
		}
	}
	if io.kind == ioRead && io.done == 0 {
		d.readOps++
	}
	if f := io.fault(); f != nil {
		if f.left > 0 {
			f.left--
		}
		io.slow = f.slow
		io.some(rng)
		return -f.errno
	}
	io.slow = io.drags()
	end := io.n
	if io.n > sectorSize && io.kind != ioRead && rng.IntN(8) == 0 {
		end = io.done + sectorSize*(1+rng.Int64N((io.n-io.done)/sectorSize))
	}
	short := io.done == 0 && io.n > sectorSize && (io.kind == ioRead || io.kind == ioWrite) &&
		rng.IntN(1000) < r.short
	if short {
		end = sectorSize * rng.Int64N(io.n/sectorSize)
	}
	io.apply(io.done, end)
	io.done = end
	switch {
	case end < io.n && !short:
		return again
	case io.fua && d.noFUA:
		return io.flush(rng, d.seq, int32(end)*io.counts())
	case io.kind == ioRead || io.kind == ioWrite:
		return int32(end)
	}
	return 0
}

// flush ends an operation by a flush of what was written up to seq. It answers res, or that
// the flush failed.
func (io *diskIO) flush(rng *rand.Rand, seq uint64, res int32) int32 {
	d := io.d
	if rng.IntN(1000) < d.rates.flush {
		io.unflushed = true
		if d.lossy {
			d.drop(rng, surviveSome, seq)
		}
		return -int32(syscall.EIO)
	}
	d.sync(seq)
	return res
}

// counts is 1 for an operation whose result is a number of bytes, else 0.
func (io *diskIO) counts() int32 {
	if io.kind == ioRead || io.kind == ioWrite {
		return 1
	}
	return 0
}

// durable says that what the operation writes is on the media at once.
func (io *diskIO) durable() bool { return io.fua && !io.d.noFUA }

// from returns an operation that does what is left of this one, from byte at on.
func (io *diskIO) from(at int64) *diskIO {
	rest := *io
	rest.off, rest.n, rest.done = io.off+at, io.n-at, 0
	if rest.data != nil {
		rest.data = io.data[at:]
	}
	return &rest
}

// fault returns the first fault that the operation meets.
func (io *diskIO) fault() *fault {
	if io.kind == ioDiscard {
		return nil
	}
	for at := io.done; at < io.n; at += sectorSize {
		if f := io.d.badAt(io.off+at, io.kind != ioRead); f != nil {
			return f
		}
	}
	return nil
}

// drags is how long a read takes that goes well.
func (io *diskIO) drags() (ns int64) {
	for at := io.off; io.kind == ioRead && at < io.off+io.n; at += sectorSize {
		if p := io.d.pages[at/pageSize]; p != nil {
			if f := p.bad[at%pageSize/sectorSize]; f != nil {
				ns = max(ns, f.drags)
			}
		}
	}
	return ns
}

// apply gives the bytes from lo to hi of the operation their effect.
func (io *diskIO) apply(lo, hi int64) {
	io.d.late = io.late
	defer func() { io.d.late = 0 }()
	switch {
	case lo >= hi:
	case io.kind == ioRead:
		io.d.load(io.off+lo, io.data[lo:hi])
		io.d.reread(io.off+lo, hi-lo)
	case io.kind == ioWrite:
		io.d.store(io.off+lo, io.data[lo:hi], hi-lo, io.durable())
	case io.kind == ioDiscard && !io.d.trims:
	default:
		io.d.store(io.off+lo, nil, hi-lo, io.durable())
	}
}

// some gives some of the remaining sectors their effect, in no order. This is what is left of a
// write that failed, or that was under way at a power cut.
func (io *diskIO) some(rng *rand.Rand) { io.survive(rng, survival(rng.IntN(3))) }

// survive gives none, any, or all of the remaining sectors their effect.
func (io *diskIO) survive(rng *rand.Rand, how survival) {
	if io.kind == ioRead || io.kind == ioFlush || how == surviveNone {
		return
	}
	for at := io.done; at < io.n; at += sectorSize {
		if how == surviveSome && rng.IntN(2) == 0 {
			continue
		}
		if f := io.d.badAt(io.off+at, true); f == nil || f.lands {
			io.apply(at, at+sectorSize)
		}
	}
}
