// Package fill gives bad blocks of a device what they held, from a backup. [Run] sends what an
// image has of the pending and lost blocks to the device's server. The server decides about each
// block: it fills only those that are still bad, in one step with the check. So nothing that was
// written meanwhile is replaced.
//
// Before that, [Sample] compares blocks that read with the image, to find an image of another disk.
// The package writes to no device itself.
package fill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"ublkremap/internal/control"
	"ublkremap/internal/lists"
)

// Source is a backup of a device, or of a part of it.
type Source struct {
	Path string
	r    io.ReaderAt
	// Have are the bytes of the device that the source has, sorted and merged.
	Have []lists.Range
	// Shift is the byte of the source at which byte 0 of the device is. It is negative if the
	// source begins within the device.
	Shift int64
}

// NewSource returns a source that has those bytes of a device.
func NewSource(path string, r io.ReaderAt, shift int64, have []lists.Range) *Source {
	return &Source{Path: path, r: r, Have: have, Shift: shift}
}

// ReadAt reads bytes of the device from the source.
func (s *Source) ReadAt(b []byte, off int64) error {
	n, err := s.r.ReadAt(b, off+s.Shift)
	if n == len(b) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%s: byte %d: %w", s.Path, off+s.Shift, err)
}

// Device is the device that is filled.
type Device struct {
	Path      string
	BlockSize int64
	Size      int64
	// Fill is control.Client.Fill.
	Fill func(ctx context.Context, block uint64, data []byte) (*control.FillReply, error)
}

// Result counts blocks.
type Result struct {
	Bad uint64 `json:"bad_blocks"` // pending or lost when the fill began
	// Filled hold the data now. Of a dry run: the source has them.
	Filled uint64 `json:"filled"`
	Reads  uint64 `json:"reads"`   // pending, read again, left alone
	NotBad uint64 `json:"not_bad"` // written meanwhile, left alone
	Failed uint64 `json:"failed"`  // stay as they are: the reason says why
	// Missing are those that the source does not have, or cannot read.
	Missing uint64 `json:"not_in_backup"`
	Reason  string `json:"reason"` // of the first failure
}

// maxGap is how many bytes of good blocks may lie between two bad ones that are sent together.
const maxGap = 32 << 10

// Plan returns the runs of bytes that are sent to fill bad blocks: each at most control.MaxFill
// long, in whole blocks, and all of it in the source. bad is in bytes, sorted and merged. Good
// blocks between bad ones are sent too, and the server leaves them alone.
func Plan(bad []lists.Range, s *Source, blockSize int64) (runs []lists.Range, missing uint64) {
	i := 0
	for _, have := range s.Have {
		start := (have.Start + blockSize - 1) / blockSize * blockSize
		end := have.End / blockSize * blockSize
		first := len(runs)
		for ; i < len(bad) && bad[i].End <= start; i++ {
		}
		for k := i; k < len(bad) && bad[k].Start < end; k++ {
			runs = appendRuns(runs, first, lists.Range{Start: max(start, bad[k].Start),
				End: min(end, bad[k].End)})
		}
	}
	var left int64
	for _, r := range lists.Subtract(bad, lists.Merge(runs)) {
		left += r.End - r.Start
	}
	return runs, uint64(left / blockSize)
}

// appendRuns adds a run, to the last one from first on if it is near enough.
func appendRuns(runs []lists.Range, first int, r lists.Range) []lists.Range {
	if n := len(runs) - 1; n >= first && r.Start-runs[n].End <= maxGap {
		if end := min(r.End, runs[n].Start+control.MaxFill); end > r.Start {
			runs[n].End = end
			r.Start = end
		}
	}
	for ; r.Start < r.End; r.Start = min(r.End, r.Start+control.MaxFill) {
		runs = append(runs, lists.Range{Start: r.Start,
			End: min(r.End, r.Start+control.MaxFill)})
	}
	return runs
}

// Count returns how many blocks of bad are in the runs.
func Count(runs, bad []lists.Range, blockSize int64) (blocks uint64) {
	all, good := int64(0), int64(0)
	for _, r := range runs {
		all += r.End - r.Start
	}
	for _, r := range lists.Subtract(lists.Merge(runs), bad) {
		good += r.End - r.Start
	}
	return uint64((all - good) / blockSize)
}

// Run fills bad blocks. It ends early, with a reason in the result, when the server can fill no
// further blocks. progress is told how many bytes were handled. Errors: those of the client, and of
// the context.
func Run(ctx context.Context, d Device, s *Source, bad []lists.Range,
	progress func(n int64)) (res Result, err error) {
	runs, missing := Plan(bad, s, d.BlockSize)
	res = Result{Missing: missing}
	for _, r := range bad {
		res.Bad += uint64((r.End - r.Start) / d.BlockSize)
	}
	buf := make([]byte, control.MaxFill)
	for i, r := range runs {
		if err := context.Cause(ctx); err != nil {
			return res, err
		}
		if res.Reason != "" {
			res.Failed += Count(runs[i:], bad, d.BlockSize)
			return res, nil
		}
		for _, r := range readable(s, r, buf, d.BlockSize) {
			if err := d.send(ctx, buf[:r.End-r.Start], s, r, bad, &res); err != nil {
				return res, err
			}
		}
		progress(r.End - r.Start)
	}
	res.Missing = res.Bad - res.Filled - res.Reads - res.NotBad - res.Failed
	return res, nil
}

// readable returns the parts of a run that the source can read: all of it, or its good blocks.
func readable(s *Source, r lists.Range, buf []byte, blockSize int64) (out []lists.Range) {
	if s.ReadAt(buf[:r.End-r.Start], r.Start) == nil {
		return []lists.Range{r}
	}
	for at := r.Start; at < r.End; at += blockSize {
		if s.ReadAt(buf[:blockSize], at) == nil {
			out = append(out, lists.Range{Start: at, End: at + blockSize})
		}
	}
	return lists.Merge(out)
}

// send has the server fill one run.
func (d *Device) send(ctx context.Context, data []byte, s *Source, r lists.Range,
	bad []lists.Range, res *Result) error {
	if err := s.ReadAt(data, r.Start); err != nil {
		return nil // it read a moment ago; the blocks count as missing
	}
	reply, err := d.Fill(ctx, uint64(r.Start/d.BlockSize), data)
	if err != nil {
		return err
	}
	for i, o := range []byte(reply.Outcomes) {
		at := r.Start + int64(i)*d.BlockSize
		if len(lists.Subtract([]lists.Range{{Start: at, End: at + d.BlockSize}}, bad)) > 0 {
			if o == control.FillDone { // it became bad meanwhile
				res.Bad++
				res.Filled++
			}
			continue
		}
		switch o {
		case control.FillDone:
			res.Filled++
		case control.FillReads:
			res.Reads++
		case control.FillNotBad:
			res.NotBad++
		default:
			res.Failed++
		}
	}
	res.Reason = reply.Reason
	return nil
}

const (
	sampleUnit = 4096
	// samplesNear and samplesFar are how many places are compared beside bad blocks, and all over
	// the device.
	samplesNear, samplesFar = 64, 128
)

// Sample compares places that read with the source. Places that hold only zeroes on both sides say
// nothing and are not counted.
func Sample(ctx context.Context, d Device, s *Source, bad []lists.Range) (same, differ int,
	err error) {
	f, err := os.OpenFile(d.Path, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	mem, err := unix.Mmap(-1, 0, 2*sampleUnit, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, unix.Munmap(mem)) }()
	for _, at := range samples(d.Size, bad) {
		if err := context.Cause(ctx); err != nil {
			return same, differ, err
		}
		unit := lists.Range{Start: at, End: at + sampleUnit}
		if len(lists.Subtract([]lists.Range{unit}, s.Have)) > 0 ||
			len(lists.Subtract([]lists.Range{unit}, bad)) != 1 {
			continue
		}
		mine, theirs := mem[:sampleUnit], mem[sampleUnit:]
		if _, err := f.ReadAt(mine, at); err != nil || s.ReadAt(theirs, at) != nil {
			continue
		}
		switch {
		case string(mine) != string(theirs):
			differ++
		case !zero(mine):
			same++
		}
	}
	return same, differ, nil
}

// samples returns the places that are compared, in order: next to bad blocks, and all over the
// device.
func samples(size int64, bad []lists.Range) (at []int64) {
	add := func(off int64) {
		if off = off / sampleUnit * sampleUnit; off >= 0 && off+sampleUnit <= size {
			at = append(at, off)
		}
	}
	for i := range min(len(bad), samplesNear) {
		r := bad[i*len(bad)/min(len(bad), samplesNear)]
		add(r.Start - sampleUnit)
		add(r.End + sampleUnit - 1)
	}
	for i := range int64(samplesFar) {
		add(size / samplesFar * i)
	}
	slices.Sort(at)
	return slices.Compact(at)
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
