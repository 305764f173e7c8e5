package ublk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/test/vmtest"
	"ublkremap/ublk"
	"ublkremap/ublk/ublktest"
)

func TestReadsWhatWasWritten(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		for _, c := range []struct {
			queues, depth, maxIO int
			block                uint32
			affinity             ublk.Affinity
			size                 int64
			largest              int // of what the test asks for, bytes
		}{
			{1, 128, 512 << 10, 512, ublk.AffinityQueue, 16 << 20, 1 << 20},
			{4, 32, 1 << 20, 4096, ublk.AffinityNone, 16 << 20, 1 << 20},
			{2, 1, 4096, 512, ublk.AffinitySingle, 2 << 20, 32 << 10},
			{1, 4096, 4096, 512, ublk.AffinityQueue, 2 << 20, 64 << 10},
		} {
			t.Run(fmt.Sprintf("queues %d depth %d maxIO %d", c.queues, c.depth, c.maxIO),
				func(t *testing.T) {
					if m.batch == ublk.Require {
						c.depth = max(c.depth, 2)
					}
					r := ram(t, c.size)
					p := r.Params()
					p.LogicalBlockSize = c.block
					s := serve(t, r, ublk.Config{
						ID: ublk.AnyID, Queues: c.queues, Depth: c.depth, MaxIO: c.maxIO,
						ZeroCopy: m.zero, BatchIO: m.batch, Params: p,
					}, ublk.RunOptions{Affinity: c.affinity, IOFlusher: true, Poll: m.poll})
					if got := s.Info().ZeroCopy(); got != (m.zero == ublk.Require) {
						t.Fatalf("zero copy: %v", got)
					}
					f := openDirect(t, s.Info().BlockPath())
					e := newExerciser(t, f, r.Size(), 8, int(c.block), c.largest)
					e.start(60)
					if err := e.wait(); err != nil {
						t.Fatal(err)
					}
					if err := e.verify(); err != nil {
						t.Fatal(err)
					}
					f.Close()
					s.remove(t)
					if n := r.Closed.Load(); n != int64(s.Info().Queues) {
						t.Errorf("%d handlers were closed, of %d", n, s.Info().Queues)
					}
					if _, err := os.Stat(s.Info().CharPath()); !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("the device is still there: %v", err)
					}
				})
		}
	})
}

// The file may itself be a disk: direct I/O, from pages of the kernel's with zero copy.
func TestOverALoopDevice(t *testing.T) {
	control(t)
	eachMode(t, func(t *testing.T, m mode) {
		disk := vmtest.NewLoop(t, 32<<20, vmtest.LoopOptions{})
		f, err := os.OpenFile(disk, os.O_RDWR|unix.O_DIRECT|unix.O_EXCL, 0)
		if err != nil {
			t.Fatal(err)
		}
		target, err := ublktest.NewFile(f)
		if err != nil {
			t.Fatal(err)
		}
		defer target.Close()
		p := ublk.Params{Size: 32 << 20, VolatileCache: true, FUA: true,
			Discard: &ublk.DiscardParams{Granularity: 4096, MaxDiscard: 1 << 20,
				MaxWriteZeroes: 1 << 20}}
		s := serve(t, target, ublk.Config{ID: ublk.AnyID, ZeroCopy: m.zero, BatchIO: m.batch,
			Params: p}, m.options())
		dev := openDirect(t, s.Info().BlockPath())
		e := newExerciser(t, dev, 32<<20, 4, 512, 256<<10)
		e.start(100)
		if err := e.wait(); err != nil {
			t.Fatal(err)
		}
		discardAndZero(t, dev, target)
		dev.Close()
	})
}

func ioctlRange(f *os.File, op uint, off, n uint64) error {
	r := [2]uint64{off, n}
	return ioctl(f, op, &r)
}

func discardAndZero(t *testing.T, dev *os.File, r *ublktest.RAM) {
	t.Helper()
	buf := aligned(t, 1<<20)
	full := bytes.Repeat([]byte{0xa5}, len(buf))
	for _, c := range []struct {
		name  string
		op    uint
		count *atomic.Int64
		zero  bool // the range must read as zeroes
	}{
		{"discard", unix.BLKDISCARD, &r.Discards, false},
		{"write zeroes", unix.BLKZEROOUT, &r.Zeroes, true},
	} {
		copy(buf, full)
		if _, err := dev.WriteAt(buf, 0); err != nil {
			t.Fatal(err)
		}
		before := c.count.Load()
		if err := ioctlRange(dev, c.op, 64<<10, 128<<10); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if c.count.Load() == before {
			t.Errorf("%s: the handler has not seen it", c.name)
		}
		if _, err := dev.ReadAt(buf, 0); err != nil {
			t.Fatal(err)
		}
		inside := buf[64<<10 : 192<<10]
		if c.zero && !bytes.Equal(inside, make([]byte, len(inside))) {
			t.Errorf("%s: the range is not zero", c.name)
		}
		if !bytes.Equal(buf[:64<<10], full[:64<<10]) || !bytes.Equal(buf[192<<10:],
			full[192<<10:]) {
			t.Errorf("%s: touched what is outside of the range", c.name)
		}
	}
}

func TestDiscardAndWriteZeroes(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := ram(t, 8<<20)
		s := serve(t, r, ublk.Config{ID: ublk.AnyID, ZeroCopy: m.zero, BatchIO: m.batch,
			Params: r.Params()}, m.options())
		dev := openDirect(t, s.Info().BlockPath())
		discardAndZero(t, dev, r)
		dev.Close()
	})
}

func TestFlushAndFUA(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := ram(t, 8<<20)
		s := serve(t, r, ublk.Config{ID: ublk.AnyID, ZeroCopy: m.zero, BatchIO: m.batch,
			Params: r.Params()}, m.options())
		dev := openDirect(t, s.Info().BlockPath())
		defer dev.Close()
		buf := aligned(t, 4096)
		if _, err := dev.WriteAt(buf, 0); err != nil {
			t.Fatal(err)
		}
		before := r.Flushes.Load()
		if err := unix.Fdatasync(int(dev.Fd())); err != nil {
			t.Fatal(err)
		}
		if r.Flushes.Load() == before {
			t.Error("fdatasync did not come as a flush")
		}
		before = r.FUAs.Load()
		if _, err := unix.Pwritev2(int(dev.Fd()), [][]byte{buf}, 4096, unix.RWF_DSYNC); err != nil {
			t.Fatal(err)
		}
		if r.FUAs.Load() == before {
			t.Error("a write with RWF_DSYNC did not come with FUA")
		}
	})
}

func TestErrnoReachesTheCaller(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		var answer atomic.Int32
		r := ram(t, 8<<20)
		const sector = 1024
		r.Fail = func(q ublk.Request) int32 {
			if q.Op == ublk.OpFlush || q.StartSector == sector {
				return answer.Load()
			}
			return 0
		}
		s := serve(t, r, ublk.Config{ID: ublk.AnyID, ZeroCopy: m.zero, BatchIO: m.batch,
			Params: r.Params()}, m.options())
		dev := openDirect(t, s.Info().BlockPath())
		defer dev.Close()
		buf := aligned(t, 4096)
		for _, errno := range []syscall.Errno{unix.EIO, unix.ENODATA, unix.ENOSPC, unix.EILSEQ,
			unix.ETIMEDOUT, unix.ENOLINK} {
			answer.Store(-int32(errno))
			if _, err := dev.ReadAt(buf, sector*512); !errors.Is(err, errno) {
				t.Errorf("read: %v, want %v", err, errno)
			}
			if _, err := dev.WriteAt(buf, sector*512); !errors.Is(err, errno) {
				t.Errorf("write: %v, want %v", err, errno)
			}
			if err := unix.Fdatasync(int(dev.Fd())); !errors.Is(err, errno) {
				t.Errorf("flush: %v, want %v", err, errno)
			}
			if _, err := dev.ReadAt(buf, 0); err != nil {
				t.Errorf("a good sector: %v", err)
			}
		}
		answer.Store(0)
		if _, err := dev.ReadAt(buf, sector*512); err != nil {
			t.Error(err)
		}
	})
}

// shortTarget answers less than was asked.
type shortTarget struct {
	ublktest.Null
	q atomic.Pointer[ublk.Queue]
}

type shortHandler struct {
	ublk.Handler
	q *ublk.Queue
}

func (s *shortTarget) NewQueue(q *ublk.Queue) (ublk.Handler, error) {
	s.q.Store(q)
	h, err := s.Null.NewQueue(q)
	return shortHandler{h, q}, err
}

func (h shortHandler) Request(r ublk.Request) { h.q.Done(r.Tag, int32(r.Length())/2) }

// The kernel would take a short answer to a write for the whole.
func TestShortAnswersBecomeErrors(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		target := &shortTarget{}
		s := serve(t, target, ublk.Config{ID: ublk.AnyID, ZeroCopy: m.zero, BatchIO: m.batch,
			Params: ublk.Params{Size: 1 << 20}}, m.options())
		dev := openDirect(t, s.Info().BlockPath())
		defer dev.Close()
		buf := aligned(t, 4096)
		if _, err := dev.WriteAt(buf, 0); !errors.Is(err, unix.EIO) {
			t.Errorf("write: %v", err)
		}
		if _, err := dev.ReadAt(buf, 0); !errors.Is(err, unix.EIO) {
			t.Errorf("read: %v", err)
		}
		if n := target.q.Load().RefusedAnswers(); n < 2 {
			t.Errorf("%d refused answers were counted", n)
		}
	})
}

func TestStopUnderLoad(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		for range 3 {
			r := ram(t, 16<<20)
			s := serve(t, r, ublk.Config{ID: ublk.AnyID, Queues: 2, Depth: 16, ZeroCopy: m.zero,
				BatchIO: m.batch, Params: r.Params()}, m.options())
			f := openDirect(t, s.Info().BlockPath())
			e := newExerciser(t, f, r.Size(), 16, 512, 256<<10)
			e.start(0)
			for e.ops.Load() < 200 {
				time.Sleep(time.Millisecond)
			}
			if err := s.Stop(within(t)); err != nil {
				t.Fatal(err)
			}
			// Each worker ends with its first operation that fails because the disk is gone.
			err := e.wait()
			// A disk that is gone has no size: reads return nothing, and writes find no room.
			gone := errors.Is(err, io.EOF) || errors.Is(err, unix.ENOSPC)
			if !gone && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EIO) &&
				!errors.Is(err, unix.ENXIO) && !errors.Is(err, os.ErrClosed) {
				t.Errorf("I/O to a stopped device: %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "wrong from byte") {
				t.Error(err)
			}
			f.Close()
			s.remove(t)
		}
	})
}

// A stop from outside of the server, as another process would do it, ends Run without an error.
func TestStopFromOutside(t *testing.T) {
	r := ram(t, 1<<20)
	s := serve(t, r, ublk.Config{ID: ublk.AnyID, Params: r.Params()}, ublk.RunOptions{})
	if err := s.ctl.Stop(within(t), s.Info().ID); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-s.done:
		if err != nil {
			t.Fatal(err)
		}
		s.done <- nil
	case <-time.After(limit):
		t.Fatal("run has not ended")
	}
}

func TestEndOfContextStops(t *testing.T) {
	ctl := control(t)
	r := ram(t, 1<<20)
	dev, err := ublk.Create(within(t), ctl, ublk.Config{ID: ublk.AnyID, Params: r.Params()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-dev.Ready(); cancel() }()
	if err := dev.Run(ctx, r, ublk.RunOptions{}); err != nil {
		t.Error(err)
	}
	info, err := ctl.Info(within(t), dev.Info().ID)
	if err != nil || info.State != ublk.StateDead {
		t.Errorf("after the stop: %+v, %v", info, err)
	}
	if err := dev.Delete(within(t)); err != nil {
		t.Error(err)
	}
	if _, err := ctl.Info(within(t), dev.Info().ID); !errors.Is(err, ublk.ErrNotFound) {
		t.Errorf("after the deletion: %v", err)
	}
}

type failingTarget struct {
	ublktest.Null
	queue int
	err   error
}

func (f failingTarget) NewQueue(q *ublk.Queue) (ublk.Handler, error) {
	if q.ID() == f.queue {
		return nil, f.err
	}
	return f.Null.NewQueue(q)
}

func TestTargetThatFails(t *testing.T) {
	ctl := control(t)
	dev, err := ublk.Create(within(t), ctl, ublk.Config{ID: ublk.AnyID, Queues: 2,
		Params: ublk.Params{Size: 1 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, dev.Info().ID)
	want := errors.New("no such backing")
	// The last queue fails: those before it work already, if there is more than one CPU.
	if err := dev.Run(context.Background(), failingTarget{queue: dev.Info().Queues - 1, err: want},
		ublk.RunOptions{}); !errors.Is(err, want) {
		t.Errorf("run: %v", err)
	}
	if err := dev.Delete(within(t)); err != nil {
		t.Error(err)
	}
}

func TestWakeup(t *testing.T) {
	r := ram(t, 1<<20)
	s := serve(t, r, ublk.Config{ID: ublk.AnyID, Params: r.Params()}, ublk.RunOptions{})
	for i := range 20 {
		before := r.Wakes.Load()
		s.Wakeup()
		deadline := time.Now().Add(limit)
		for r.Wakes.Load() == before {
			if time.Now().After(deadline) {
				t.Fatalf("wakeup %d did not arrive", i)
			}
			time.Sleep(100 * time.Microsecond)
		}
	}
}

// idleTarget counts how often its queue comes out of the kernel.
type idleTarget struct {
	ublktest.Null
	batches atomic.Int64
}

type idleHandler struct {
	ublk.Handler
	t *idleTarget
}

func (i *idleTarget) NewQueue(q *ublk.Queue) (ublk.Handler, error) {
	h, err := i.Null.NewQueue(q)
	return idleHandler{h, i}, err
}

func (h idleHandler) EndBatch() time.Duration { h.t.batches.Add(1); return 0 }

func TestIdleDeviceSleeps(t *testing.T) {
	target := &idleTarget{}
	s := serve(t, target, ublk.Config{ID: ublk.AnyID, Params: ublk.Params{Size: 1 << 20}},
		ublk.RunOptions{})
	f := openDirect(t, s.Info().BlockPath())
	defer f.Close()
	time.Sleep(200 * time.Millisecond) // programs that look at new disks have done so
	before := target.batches.Load()
	time.Sleep(time.Second)
	// The runtime may interrupt the thread to stop it for a collection; a timer would show
	// as hundreds.
	if n := target.batches.Load() - before; n > 10 {
		t.Errorf("%d wake-ups in a second", n)
	}
}

func TestTimer(t *testing.T) {
	r := ram(t, 1<<20)
	r.Delay = 20 * time.Millisecond
	s := serve(t, r, ublk.Config{ID: ublk.AnyID, Params: r.Params()}, ublk.RunOptions{})
	f := openDirect(t, s.Info().BlockPath())
	defer f.Close()
	buf := aligned(t, 4096)
	start := time.Now()
	for range 5 {
		if _, err := f.ReadAt(buf, 0); err != nil {
			t.Fatal(err)
		}
	}
	if d := time.Since(start); d < 5*r.Delay {
		t.Errorf("five delayed reads took %v", d)
	}
}

func TestParametersReachTheKernel(t *testing.T) {
	ctl := control(t)
	p := ublk.Params{
		Size: 64 << 20, LogicalBlockSize: 4096, PhysicalBlockSize: 4096, IOMin: 8192, IOOpt: 65536,
		VolatileCache: true, FUA: true, Rotational: true,
		Discard: &ublk.DiscardParams{Granularity: 8192, MaxDiscard: 4 << 20,
			MaxWriteZeroes: 2 << 20, MaxSegments: 1},
	}
	s := serve(t, ublktest.Null{}, ublk.Config{ID: ublk.AnyID, MaxIO: 256 << 10, Params: p},
		ublk.RunOptions{})
	got := s.Params()
	if got.Discard == nil || *got.Discard != *p.Discard {
		t.Errorf("discard: %+v, want %+v", got.Discard, p.Discard)
	}
	got.Discard, p.Discard = nil, nil
	if got != p {
		t.Errorf("parameters %+v, want %+v", got, p)
	}
	for name, want := range map[string]string{
		"logical_block_size": "4096", "physical_block_size": "4096", "minimum_io_size": "8192",
		"optimal_io_size": "65536",
		"rotational":      "1", "fua": "1", "write_cache": "write back", "max_sectors_kb": "256",
		"discard_granularity": "8192", "discard_max_bytes": "4194304",
		"write_zeroes_max_bytes": "2097152",
	} {
		path := filepath.Join("/sys/block", filepath.Base(s.Info().BlockPath()), "queue", name)
		if b, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(b)) != want {
			t.Errorf("%s: %q, %v; want %s", name, strings.TrimSpace(string(b)), err, want)
		}
	}
	infos, err := ctl.List(within(t))
	if err != nil || len(infos) != 1 {
		t.Fatalf("list: %+v, %v", infos, err)
	}
	info := infos[0]
	if info.State != ublk.StateLive || info.PID != os.Getpid() || info.MaxIO != 256<<10 ||
		info.Depth != ublk.DefaultDepth {
		t.Errorf("info: %+v", info)
	}
}

func TestUpdateSize(t *testing.T) {
	ctl := control(t)
	needFeature(t, ctl, ublk.FeatureUpdateSize)
	s := serve(t, ublktest.Null{}, ublk.Config{ID: ublk.AnyID, Params: ublk.Params{Size: 1 << 20}},
		ublk.RunOptions{})
	if err := ctl.UpdateSize(within(t), s.Info().ID, 2<<20); err != nil {
		t.Fatal(err)
	}
	f := openDirect(t, s.Info().BlockPath())
	defer f.Close()
	if end, err := f.Seek(0, 2); err != nil || end != 2<<20 {
		t.Errorf("size %d, %v", end, err)
	}
}

func TestWhatTheKernelLacksIsNamed(t *testing.T) {
	ctl := control(t)
	have, err := ctl.Features(within(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("features: %v", have)
	dev, err := ublk.Create(within(t), ctl, ublk.Config{ID: ublk.AnyID, ZeroCopy: ublk.Require,
		Params: ublk.Params{Size: 1 << 20}})
	if have.Has(ublk.FeatureAutoBufReg) {
		if err != nil {
			t.Fatal(err)
		}
		if err := dev.Delete(within(t)); err != nil {
			t.Fatal(err)
		}
		return
	}
	var unsupported *ublk.UnsupportedFeatureError
	if !errors.As(err, &unsupported) || !errors.Is(err, ublk.ErrNotSupported) {
		t.Fatalf("error: %v", err)
	}
	if unsupported.MinimumVersion != (ublk.KernelVersion{Major: 6, Minor: 16}) {
		t.Errorf("minimum version %v", unsupported.MinimumVersion)
	}
	// Auto does not use it.
	dev, err = ublk.Create(within(t), ctl, ublk.Config{ID: ublk.AnyID,
		Params: ublk.Params{Size: 1 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	if dev.Info().ZeroCopy() || !dev.Info().Recoverable() {
		t.Errorf("features: %v", dev.Info().Features)
	}
	if err := dev.Delete(within(t)); err != nil {
		t.Fatal(err)
	}
}

func TestIDs(t *testing.T) {
	ctl := control(t)
	p := ublk.Params{Size: 1 << 20}
	dev, err := ublk.Create(within(t), ctl, ublk.Config{ID: 7, Params: p})
	if err != nil {
		t.Fatal(err)
	}
	if dev.Info().ID != 7 {
		t.Errorf("id %d", dev.Info().ID)
	}
	if _, err := ublk.Create(within(t), ctl, ublk.Config{ID: 7, Params: p}); !errors.Is(err,
		ublk.ErrExists) {
		t.Errorf("a second device 7: %v", err)
	}
	if err := dev.Delete(within(t)); err != nil {
		t.Error(err)
	}
	var ce *ublk.CommandError
	if err := dev.Delete(within(t)); !errors.Is(err, ublk.ErrNotFound) || !errors.As(err, &ce) ||
		ce.Op != "DEL_DEV" || ce.ID != 7 {
		t.Errorf("second deletion: %v", err)
	}
}

func TestDeletionNamesWhoHoldsTheDevice(t *testing.T) {
	r := ram(t, 1<<20)
	s := serve(t, r, ublk.Config{ID: ublk.AnyID, Params: r.Params()}, ublk.RunOptions{})
	f := openDirect(t, s.Info().BlockPath())
	if err := s.Stop(within(t)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	err := s.Delete(ctx)
	var held *ublk.HeldOpenError
	if !errors.As(err, &held) || !errors.Is(err, ublk.ErrTimeout) {
		t.Fatalf("deletion: %v", err)
	}
	if len(held.Holders) != 1 || held.Holders[0].PID != os.Getpid() {
		t.Errorf("holders: %+v", held.Holders)
	}
	t.Log(err)
	f.Close()
	s.removed = true
	if err := <-s.done; err != nil {
		t.Error(err)
	}
	awaitGone(t, s.ctl, s.Info().ID)
}

// awaitGone waits until the number of a device is free: once the last holder has gone.
func awaitGone(t *testing.T, ctl *ublk.Control, id int) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		_, err := ctl.Info(within(t), id)
		if errors.Is(err, ublk.ErrNotFound) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the device is still there: %v", err)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestDeleteAsync(t *testing.T) {
	r := ram(t, 1<<20)
	s := serve(t, r, ublk.Config{ID: ublk.AnyID, Params: r.Params()}, ublk.RunOptions{})
	f := openDirect(t, s.Info().BlockPath())
	if err := s.Stop(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := s.ctl.DeleteAsync(within(t), s.Info().ID); err != nil {
		t.Fatal(err)
	}
	s.removed = true
	if err := <-s.done; err != nil {
		t.Error(err)
	}
	f.Close()
	awaitGone(t, s.ctl, s.Info().ID)
	if err := s.ctl.DeleteAsync(within(t), s.Info().ID); !errors.Is(err, ublk.ErrNotFound) {
		t.Errorf("once more: %v", err)
	}
}

// TestTryStop: a device that somebody has open is stopped by Stop, not by TryStop.
func TestTryStop(t *testing.T) {
	r := ram(t, 1<<20)
	s := serve(t, r, ublk.Config{ID: ublk.AnyID, Params: r.Params()}, ublk.RunOptions{})
	f := openDirect(t, s.Info().BlockPath())
	err := s.ctl.TryStop(within(t), s.Info().ID)
	if features, _ := s.ctl.Features(within(t)); !features.Has(ublk.FeatureSafeStop) {
		if !errors.Is(err, ublk.ErrNotSupported) {
			t.Errorf("without the command: %v", err)
		}
		f.Close()
		return
	}
	if !errors.Is(err, ublk.ErrBusy) {
		t.Errorf("while it is open: %v", err)
	}
	if _, err := f.WriteAt(aligned(t, 4096), 0); err != nil {
		t.Errorf("after a stop that was refused: %v", err)
	}
	f.Close()
	// A process that looks for partitions or signatures may have it open for a moment.
	for deadline := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		if err = s.ctl.TryStop(within(t), s.Info().ID); !errors.Is(err, ublk.ErrBusy) ||
			time.Now().After(deadline) {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := <-s.done; err != nil {
		t.Error(err)
	}
	s.done <- nil
	s.remove(t)
}

func TestManyDevicesComeAndGo(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		buf := aligned(t, 4096)
		for range 4 {
			r := ram(t, 1<<20)
			s := serve(t, r, ublk.Config{ID: ublk.AnyID, Queues: 2, ZeroCopy: m.zero,
				BatchIO: m.batch, Params: r.Params()}, m.options())
			f := openDirect(t, s.Info().BlockPath())
			if _, err := f.WriteAt(buf, 4096); err != nil {
				t.Fatal(err)
			}
			f.Close()
			s.remove(t)
		}
	})
}
