// Package rescue has the server of a device take over a list of bad blocks: it has them marked
// pending, reads each through the device, and has those moved to the spare region that still read.
//
// It reads as any user does. So the server isolates what fails, no other request waits for a slow
// sector, and nothing depends on this process: if it ends midway, what was done stays, and the rest
// can be done again.
package rescue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"ublkremap/internal/control"
)

// ErrStay is for blocks that still read and could not be moved.
var ErrStay = errors.New("not all could be moved")

// Client is what of control.Client is used.
type Client interface {
	MarkRemaps(ctx context.Context, ranges []control.Range) (control.MarkReply, error)
	RescueRemaps(ctx context.Context, ranges []control.Range) (control.RescueReply, error)
}

// chunk is how many ranges are dealt with at once: their blocks are read, and then moved. It is at
// most control.MaxRanges.
const chunk = 512

const _ = uint(control.MaxRanges - chunk)

// chunkBlocks is how many blocks a chunk has at most, but for its last range's.
const chunkBlocks = 1 << 16

// Mark has blocks marked pending, and tells after each step how much is done. The ranges are in
// order.
func Mark(ctx context.Context, c Client, ranges []control.Range,
	tell func(control.MarkReply)) error {
	var sum control.MarkReply
	return each(ranges, func(part []control.Range) error {
		got, err := c.MarkRemaps(ctx, part)
		sum.Marked += got.Marked
		sum.Known += got.Known
		sum.Spared += got.Spared
		tell(sum)
		return err
	})
}

// each calls f with the ranges, a chunk at a time. It cuts long ranges.
func each(ranges []control.Range, f func(part []control.Range) error) error {
	var part []control.Range
	blocks := uint64(0)
	flush := func() error {
		if len(part) == 0 {
			return nil
		}
		err := f(part)
		part, blocks = part[:0], 0
		return err
	}
	for _, r := range ranges {
		for r.Count > 0 {
			n := min(r.Count, chunkBlocks-blocks)
			part = append(part, control.Range{Block: r.Block, Count: n})
			r.Block, r.Count, blocks = r.Block+n, r.Count-n, blocks+n
			if len(part) == chunk || blocks == chunkBlocks {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	return flush()
}

// Done is how far Run got, in blocks.
type Done struct {
	Looked     uint64 // that were read, or did not read
	Unreadable uint64 // do not read
	Moved      uint64 // read, and live in the spare region now
	Stay       uint64 // read, and stay where they are
	Why        string // of the first that stay; empty: not known
}

// Run reads blocks through the device at path, has those moved that read, and tells after each
// step how much is done. size is the bytes of a block.
func Run(ctx context.Context, c Client, path string, ranges []control.Range, size int,
	tell func(Done)) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fd)
	var sum Done
	return each(ranges, func(part []control.Range) error {
		good, err := readable(ctx, fd, part, size)
		if err != nil {
			return err
		}
		all, reads := count(part), count(good)
		sum.Looked += all
		sum.Unreadable += all - reads
		for len(good) > 0 {
			now := good[:min(len(good), chunk)]
			good = good[len(now):]
			got, err := c.RescueRemaps(ctx, now)
			sum.Moved += got.Moved
			sum.Stay += got.Stay
			sum.Why = cmp.Or(sum.Why, got.Why)
			if err != nil {
				return err
			}
		}
		tell(sum)
		return nil
	})
}

// Unreadable reads blocks through the device at path, changes nothing, and returns how many of them
// do not read. It tells after each step how many blocks that was about. size is the bytes of a
// block.
func Unreadable(ctx context.Context, path string, ranges []control.Range, size int,
	tell func(blocks uint64)) (bad uint64, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fd)
	err = each(ranges, func(part []control.Range) error {
		good, err := readable(ctx, fd, part, size)
		bad += count(part) - count(good)
		tell(count(part))
		return err
	})
	return bad, err
}

func count(ranges []control.Range) (n uint64) {
	for _, r := range ranges {
		n += r.Count
	}
	return n
}

const (
	readers = 8        // reads at once
	pieceOf = 64 << 10 // bytes that are read at once
)

// readable returns which blocks of the ranges read, in order.
func readable(ctx context.Context, fd int, part []control.Range, size int) ([]control.Range,
	error) {
	var mu sync.Mutex
	var good []control.Range
	var failed error
	work := make(chan control.Range)
	var running sync.WaitGroup
	for range readers {
		running.Go(func() {
			buf, err := unix.Mmap(-1, 0, pieceOf, unix.PROT_READ|unix.PROT_WRITE,
				unix.MAP_ANON|unix.MAP_PRIVATE)
			if err == nil {
				defer func() { _ = unix.Munmap(buf) }()
			}
			for r := range work {
				var got []control.Range
				if err == nil {
					got, err = readOne(ctx, fd, r, size, buf)
				}
				mu.Lock()
				good = append(good, got...)
				failed = errors.Join(failed, err)
				mu.Unlock()
			}
		})
	}
	for _, r := range part {
		for r.Count > 0 {
			n := min(r.Count, uint64(pieceOf/size))
			work <- control.Range{Block: r.Block, Count: n}
			r.Block, r.Count = r.Block+n, r.Count-n
		}
	}
	close(work)
	running.Wait()
	if failed != nil {
		return nil, failed
	}
	slices.SortFunc(good, func(a, b control.Range) int {
		if a.Block < b.Block {
			return -1
		}
		return 1
	})
	return joined(good), nil
}

// joined joins ranges that touch.
func joined(list []control.Range) []control.Range {
	out := list[:0]
	for _, r := range list {
		if n := len(out); n > 0 && out[n-1].Block+out[n-1].Count == r.Block {
			out[n-1].Count += r.Count
			continue
		}
		out = append(out, r)
	}
	return out
}

// readOne returns which blocks of a range read: all at once, or else one by one.
func readOne(ctx context.Context, fd int, r control.Range, size int, buf []byte) ([]control.Range,
	error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	ok, err := read(fd, buf[:int(r.Count)*size], int64(r.Block)*int64(size))
	if err != nil {
		return nil, err
	}
	if ok {
		return []control.Range{r}, nil
	}
	var good []control.Range
	for i := uint64(0); r.Count > 1 && i < r.Count; i++ {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		ok, err := read(fd, buf[:size], int64(r.Block+i)*int64(size))
		if err != nil {
			return nil, err
		}
		if ok {
			good = append(good, control.Range{Block: r.Block + i, Count: 1})
		}
	}
	return good, nil
}

// read reports whether a place reads. Errors are those that say nothing of the medium.
func read(fd int, buf []byte, at int64) (bool, error) {
	for {
		n, err := unix.Pread(fd, buf, at)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err == nil && n == len(buf):
			return true, nil
		case err == nil, errors.Is(err, syscall.EIO), errors.Is(err, syscall.ENODATA),
			errors.Is(err, syscall.EREMOTEIO), errors.Is(err, syscall.EILSEQ):
			return false, nil
		}
		return false, fmt.Errorf("read of %d bytes at %d: %w", len(buf), at, err)
	}
}
