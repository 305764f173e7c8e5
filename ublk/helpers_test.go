package ublk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/test/vmtest"
	"ublkremap/ublk"
	"ublkremap/ublk/ublktest"
)

// limit bounds whatever a test waits for. Guests are slow.
const limit = 60 * time.Second

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

func control(t testing.TB) *ublk.Control {
	t.Helper()
	vmtest.NeedUblk(t)
	ctl, err := ublk.OpenControl()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ctl.Close(); err != nil {
			t.Error(err)
		}
	})
	return ctl
}

// needFeature skips on kernels that are too old, and fails on those that should have it.
func needFeature(t testing.TB, ctl *ublk.Control, want ublk.Features) {
	t.Helper()
	for _, f := range ublk.AllFeatures() {
		if !want.Has(f.Bit) {
			continue
		}
		vmtest.Require(t, vmtest.Feature{
			Name: f.Name, Min: vmtest.V(f.Since.Major, f.Since.Minor),
			Has: func() (bool, error) {
				have, err := ctl.Features(context.Background())
				return have.Has(f.Bit), err
			},
		})
	}
}

// mode is a way to move data, a way to move tags, and a way to wait.
type mode struct {
	name        string
	zero, batch ublk.Choice
	poll        time.Duration
}

const pollFor = 100 * time.Microsecond

var modes = []mode{
	{"copy", ublk.Never, ublk.Never, 0},
	{"zero copy", ublk.Require, ublk.Never, 0},
	{"copy, batch", ublk.Never, ublk.Require, 0},
	{"zero copy, batch", ublk.Require, ublk.Require, 0},
	{"copy, poll", ublk.Never, ublk.Never, pollFor},
	{"zero copy, batch, poll", ublk.Require, ublk.Require, pollFor},
}

// options are for tests that want no others.
func (m mode) options() ublk.RunOptions { return ublk.RunOptions{Poll: m.poll} }

// need skips where the kernel is too old for the mode.
func (m mode) need(t testing.TB) {
	t.Helper()
	var want ublk.Features
	if m.zero == ublk.Require {
		want |= ublk.FeatureAutoBufReg
	}
	if m.batch == ublk.Require {
		want |= ublk.FeatureBatchIO
	}
	if want != 0 {
		needFeature(t, control(t), want)
	}
}

// killable skips the test where the death of a server of this mode would crash the kernel. When a
// server with batch I/O dies with requests on their way, Linux 7.0 to 7.3 copy to its memory in a
// thread that has none. That fails, except under user-mode Linux, which panics.
func (m mode) killable(t testing.TB) {
	t.Helper()
	if m.batch == ublk.Require && vmtest.UserMode() {
		t.Skip("user-mode Linux would panic")
	}
}

// eachMode runs a test in all modes that the kernel has.
func eachMode(t *testing.T, f func(t *testing.T, m mode)) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			m.need(t)
			f(t, m)
		})
	}
}

// served is a device that this process serves.
type served struct {
	*ublk.Device
	ctl     *ublk.Control
	done    chan error // what Run returned
	removed bool
}

// serve makes and runs a device, which is stopped and deleted when the test ends if it
// still is there.
func serve(t testing.TB, target ublk.Target, cfg ublk.Config, opts ublk.RunOptions) *served {
	t.Helper()
	ctl := control(t)
	dev, err := ublk.Create(within(t), ctl, cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := run(t, ctl, dev, target, opts)
	t.Cleanup(func() { s.remove(t) })
	return s
}

// run runs a device and waits until it is live.
func run(t testing.TB, ctl *ublk.Control, dev *ublk.Device, target ublk.Target,
	opts ublk.RunOptions) *served {
	t.Helper()
	s := &served{Device: dev, ctl: ctl, done: make(chan error, 1)}
	go func() { s.done <- dev.Run(context.Background(), target, opts) }()
	select {
	case <-dev.Ready():
	case err := <-s.done:
		_ = dev.Delete(within(t))
		t.Fatalf("device %d did not start: %v", dev.Info().ID, err)
	case <-time.After(limit):
		t.Fatal("the device is not live")
	}
	return s
}

// remove stops and deletes, once.
func (s *served) remove(t testing.TB) {
	t.Helper()
	if s.removed {
		return
	}
	s.removed = true
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := s.Stop(ctx); err != nil && !errors.Is(err, ublk.ErrNotFound) {
		t.Errorf("stop: %v", err)
	}
	select {
	case err := <-s.done:
		if err != nil {
			t.Errorf("run: %v", err)
		}
	case <-ctx.Done():
		t.Error("run has not ended")
	}
	if err := s.Delete(ctx); err != nil && !errors.Is(err, ublk.ErrNotFound) {
		t.Errorf("delete: %v", err)
	}
}

// openDirect opens a block device, and nothing but one, for direct I/O.
func openDirect(t testing.TB, path string) *os.File {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		t.Fatalf("%s is not a block device (%v)", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	t.Cleanup(func() { f.Close() })
	return f
}

// aligned is memory for direct I/O.
func aligned(t testing.TB, n int) []byte {
	t.Helper()
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(b) })
	return b
}

func ram(t testing.TB, size int64) *ublktest.RAM {
	t.Helper()
	r, err := ublktest.NewRAM(size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// exerciser writes and reads a device at random from several goroutines, each with a part
// of its own, and compares.
type exerciser struct {
	file    *os.File
	part    int64
	maxIO   int
	block   int
	workers []*worker
	ops     atomic.Int64
	stop    atomic.Bool
	wg      sync.WaitGroup
	mu      sync.Mutex
	err     error
}

type worker struct {
	base  int64
	model []byte
	buf   []byte
	rnd   *rand.Rand
}

func newExerciser(t testing.TB, f *os.File, size int64, workers, block, maxIO int) *exerciser {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	e := &exerciser{file: f, part: size / int64(workers) / 4096 * 4096, maxIO: maxIO, block: block}
	for i := range workers {
		e.workers = append(e.workers, &worker{
			base: int64(i) * e.part, model: make([]byte, e.part), buf: aligned(t, maxIO),
			rnd: rand.New(rand.NewPCG(seed, uint64(i))),
		})
	}
	return e
}

// start runs until halt, or until each worker has done n operations if n is not zero.
func (e *exerciser) start(n int) {
	for i, w := range e.workers {
		e.wg.Go(func() {
			for k := 0; (n == 0 || k < n) && !e.stop.Load(); k++ {
				if err := e.step(w); err != nil {
					e.mu.Lock()
					e.err = errors.Join(e.err, fmt.Errorf("worker %d, operation %d: %w", i, k, err))
					e.mu.Unlock()
					return
				}
				e.ops.Add(1)
			}
		})
	}
}

// more waits until n more operations have ended.
func (e *exerciser) more(n int64) {
	for target := e.ops.Load() + n; e.ops.Load() < target; {
		time.Sleep(time.Millisecond)
	}
}

func (e *exerciser) wait() error { e.wg.Wait(); return e.err }

func (e *exerciser) halt() error { e.stop.Store(true); return e.wait() }

// finish halts it, and compares all that it has written.
func (e *exerciser) finish(t testing.TB) {
	t.Helper()
	if err := errors.Join(e.halt(), e.verify()); err != nil {
		t.Error(err)
	}
}

func (e *exerciser) step(w *worker) error {
	n := (1 + w.rnd.IntN(e.maxIO/e.block)) * e.block
	if w.rnd.IntN(2) == 0 {
		n = e.block * (1 + w.rnd.IntN(8))
	}
	off := w.rnd.Int64N((e.part-int64(n))/int64(e.block)+1) * int64(e.block)
	b := w.buf[:n]
	if w.rnd.IntN(2) == 0 {
		for i := 0; i < n; i += 8 {
			v := w.rnd.Uint64()
			for k := range 8 {
				b[i+k] = byte(v >> (8 * k))
			}
		}
		if m, err := e.file.WriteAt(b, w.base+off); err != nil || m != n {
			return fmt.Errorf("write of %d at %d: %d, %w", n, w.base+off, m, err)
		}
		copy(w.model[off:], b)
		return nil
	}
	return e.check(w, off, b)
}

func (e *exerciser) check(w *worker, off int64, b []byte) error {
	if m, err := e.file.ReadAt(b, w.base+off); err != nil || m != len(b) {
		return fmt.Errorf("read of %d at %d: %d, %w", len(b), w.base+off, m, err)
	}
	if !bytes.Equal(b, w.model[off:off+int64(len(b))]) {
		for i := range b {
			if b[i] != w.model[off+int64(i)] {
				return fmt.Errorf("read of %d at %d: wrong from byte %d on", len(b), w.base+off, i)
			}
		}
	}
	return nil
}

// verify reads everything back.
func (e *exerciser) verify() error {
	for _, w := range e.workers {
		for off := int64(0); off < e.part; off += int64(e.maxIO) {
			if err := e.check(w, off, w.buf[:min(int64(e.maxIO), e.part-off)]); err != nil {
				return err
			}
		}
	}
	return nil
}
