package server

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/internal/host/set"
	"ublkremap/metadata"
	"ublkremap/remap"
)

// cachedDisk is a real file behind a volatile cache. The cache can be lost. A test can make calls
// fail or wait.
type cachedDisk struct {
	descriptors
	mu      sync.Mutex
	before  map[int64][]byte // by page: what is durable of pages written since
	off     bool             // the power is cut
	calls   []string         // write, flush
	fail    func(write bool, off int64) error
	flush   func(nth int) error // flushes are counted from 1
	synced  int
	mirrors [][2]int64    // where the metadata's mirrors begin and end
	hold    chan struct{} // writes wait for it to be closed
	waits   chan struct{} // receives an element for each write that waits
}

const cachePage = 4096

func (d *cachedDisk) pread(device uint8, p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		if err := d.fail(false, off); err != nil {
			return 0, err
		}
	}
	return d.descriptors.pread(device, p, off)
}

func (d *cachedDisk) pwrite(device uint8, p []byte, off int64) (int, error) {
	d.mu.Lock()
	hold := d.hold
	d.mu.Unlock()
	if hold != nil {
		d.waits <- struct{}{}
		<-hold
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, "write")
	if d.fail != nil {
		if err := d.fail(true, off); err != nil {
			return 0, err
		}
	}
	if d.off {
		return len(p), nil
	}
	for at := off / cachePage * cachePage; at < off+int64(len(p)); at += cachePage {
		if d.before[at] != nil {
			continue
		}
		old := metadata.AlignedBytes(cachePage)
		if _, err := d.descriptors.pread(device, old, at); err != nil {
			return 0, err
		}
		d.before[at] = old
	}
	return d.descriptors.pwrite(device, p, off)
}

func (d *cachedDisk) fdatasync(uint8) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, "flush")
	d.synced++
	if d.flush != nil {
		if err := d.flush(d.synced); err != nil {
			return errors.Join(err, d.drop())
		}
	}
	clear(d.before)
	return nil
}

// drop loses the cache.
func (d *cachedDisk) drop() (err error) {
	for at, old := range d.before {
		_, e := d.descriptors.pwrite(0, old, at)
		err = errors.Join(err, e)
	}
	clear(d.before)
	return err
}

// cut is a power cut: writes that are not durable are lost, and nothing is written any more.
func (d *cachedDisk) cut(t *testing.T) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off = true
	if err := d.drop(); err != nil {
		t.Fatal(err)
	}
}

// newCached binds a keeper to a set on a cached disk. It is not open.
func newCached(t *testing.T) (*server, *cachedDisk, *blockdev.Device) {
	t.Helper()
	d := newSet(t)
	img, err := metadata.Load([]metadata.Device{d})
	if err != nil {
		t.Fatal(err)
	}
	restored, err := remap.Restore(img.Layout(), img.Replay)
	if err != nil {
		t.Fatal(err)
	}
	devices := []*blockdev.Device{d}
	c := &cachedDisk{descriptors: descriptorsOf(devices), before: map[int64][]byte{},
		waits: make(chan struct{}, 64)}
	sb := img.Layout().Superblock()
	for _, r := range sb.Regions {
		if r.Kind == metadata.RegionMirror {
			c.mirrors = append(c.mirrors, [2]int64{r.Start, r.Start + r.Length})
		}
	}
	s := &server{log: zerolog.New(zerolog.NewTestWriter(t)), stopAsked: make(chan struct{}),
		set: &set.Set{Devices: devices}, record: &control.Record{}}
	s.shared, s.alloc = remap.NewShared(restored.Geometry, restored.Map), restored.Allocator
	s.keeper, err = newKeeper(s.log, configOf(s, img), devices, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.keeper.stop)
	return s, c, d
}

func opened(t *testing.T) (*server, *cachedDisk, *blockdev.Device) {
	t.Helper()
	s, c, d := newCached(t)
	if err := s.keeper.open(context.Background()); err != nil {
		t.Fatal(err)
	}
	return s, c, d
}

func (d *cachedDisk) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

// add moves one unit to the spare region.
func (s *server) add(unit uint64) (remap.MoveResult, error) {
	per := s.shared.Geometry().BlocksPerUnit()
	return s.keeper.move(context.Background(), remap.Move{Block: unit * per, Count: per,
		ToSpare: true, Cause: metadata.CauseOperator})
}

func (s *server) mapped(unit uint64) bool {
	info := s.shared.Map().Unit(unit)
	return info.N > 0
}

// inMirror reports whether a place is in one of the mirrors.
func (d *cachedDisk) inMirror(off int64) bool {
	return slices.ContainsFunc(d.mirrors, func(m [2]int64) bool {
		return off >= m[0] &&
			off < m[1]
	})
}

// TestWhatIsToldIsDurable: the epoch, a move and its record, and a checkpoint are reported as
// durable. After a power cut right after that, they are still there.
func TestWhatIsToldIsDurable(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(t *testing.T, s *server)
		is   func(img *metadata.Image, r *remap.Restored) bool
	}{
		{"epoch", func(*testing.T, *server) {}, func(img *metadata.Image, _ *remap.Restored) bool {
			sb := img.Layout().Superblock()
			return sb.Session == 42
		}},
		{"record", func(t *testing.T, s *server) {
			if r, err := s.add(1000); err != nil || r.Failed > 0 {
				t.Fatal(r, err)
			}
		}, func(_ *metadata.Image, r *remap.Restored) bool {
			info := r.Map.Unit(1000)
			return info.N == 1
		}},
		{"checkpoint", func(t *testing.T, s *server) {
			if r, err := s.add(1000); err != nil || r.Failed > 0 {
				t.Fatal(r, err)
			}
			stop(t, s)
		}, func(_ *metadata.Image, r *remap.Restored) bool {
			info := r.Map.Unit(1000)
			return info.N == 1
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, disk, d := opened(t)
			c.do(t, s)
			disk.cut(t)
			s.keeper.stop()
			img, err := metadata.Load([]metadata.Device{d})
			if err != nil {
				t.Fatal(err)
			}
			restored, err := remap.Restore(img.Layout(), img.Replay)
			if err != nil {
				t.Fatal(err)
			}
			if !c.is(img, restored) {
				t.Error("it is not there after a power cut")
			}
		})
	}
}

// TestMovedDataIsDurable: the data that a record names must be durable when the record is.
func TestMovedDataIsDurable(t *testing.T) {
	s, disk, d := opened(t)
	geo := s.shared.Geometry()
	per := geo.BlocksPerUnit()
	want := metadata.AlignedBytes(metadata.UnitSize)
	for i := range want {
		want[i] = byte(i * 11)
	}
	_, home := geo.HomeOffset(1000 * per)
	if _, err := d.WriteAt(want, home); err != nil {
		t.Fatal(err)
	}
	// If the data is in the cache when the record is written, a power cut could leave the record
	// and not the data.
	disk.set(func() {
		disk.fail = func(write bool, off int64) error {
			if !write || !disk.inMirror(off) {
				return nil
			}
			for at := range disk.before {
				if !disk.inMirror(at) {
					t.Errorf("a record is written, and the data at %d that it names is not durable",
						at)
				}
			}
			return nil
		}
	})
	if r, err := s.add(1000); err != nil || r.Moved != per {
		t.Fatal(r, err)
	}
	disk.cut(t)
	info := s.shared.Map().Unit(1000)
	_, off := geo.SpareOffset(info.Places[0].Spare)
	got := metadata.AlignedBytes(metadata.UnitSize)
	if _, err := d.ReadAt(got, off); err != nil || !slices.Equal(got, want) {
		t.Errorf("the data that was moved is not in the spare unit after a power cut (%v)", err)
	}
}

// TestUnknownOutcome: a record that no mirror takes is not durable, and is not reported as
// durable.
func TestUnknownOutcome(t *testing.T) {
	s, disk, _ := opened(t)
	disk.set(func() {
		disk.fail = func(write bool, off int64) error {
			if write && disk.inMirror(off) {
				return unix.EIO
			}
			return nil
		}
	})
	r, _ := s.add(1000)
	if r.Moved != 0 || r.Failed == 0 || !s.shared.Tripped() {
		t.Errorf("no mirror took the record: %+v, the breaker is open: %v", r, s.shared.Tripped())
	}
	disk.set(func() { disk.fail = nil })
	if err := s.Resume(context.Background()); err != nil {
		t.Fatal(err)
	}
	for s.shared.Tripped() {
		time.Sleep(time.Millisecond)
	}
}

// TestEpochThatIsNotDurable: a server whose epoch is not durable must not begin.
func TestEpochThatIsNotDurable(t *testing.T) {
	s, disk, _ := newCached(t)
	disk.fail = func(write bool, _ int64) error {
		if write {
			return unix.EIO
		}
		return nil
	}
	if err := s.keeper.open(context.Background()); !errors.Is(err, ErrEpoch) {
		t.Errorf("no superblock could be written: %v", err)
	}
}

// TestFailedTransfer: data that could not be read, or not be written, stays where it is.
func TestFailedTransfer(t *testing.T) {
	for _, write := range []bool{false, true} {
		for _, errno := range []unix.Errno{unix.EIO, unix.ENODATA, unix.ENOLINK, unix.ENOSPC} {
			s, disk, _ := opened(t)
			disk.set(func() {
				disk.fail = func(w bool, off int64) error {
					if w == write && !disk.inMirror(off) {
						return errno
					}
					return nil
				}
			})
			r, _ := s.add(1000)
			if r.Moved != 0 || r.Failed == 0 || s.mapped(1000) {
				t.Errorf("write %v, %v: %+v, moved %v", write, errno, r, s.mapped(1000))
			}
			disk.set(func() { disk.fail = nil })
		}
	}
}

// TestFlushOfOursThatFails: a failed flush of a move and its record is reported, whichever flush it
// is. No mirror and no spare unit is blamed.
func TestFlushOfOursThatFails(t *testing.T) {
	s, disk, _ := opened(t)
	for unit := uint64(1000); ; unit++ {
		nth := int(unit - 999)
		disk.set(func() {
			disk.synced = 0
			disk.flush = func(n int) error {
				if n == nth {
					return unix.EIO
				}
				return nil
			}
		})
		before := s.shared.FailedFlushes(0)
		r, _ := s.add(unit)
		disk.set(func() { disk.flush = nil })
		if s.shared.FailedFlushes(0) == before {
			if nth == 1 {
				t.Fatal("a move needs no flush")
			}
			break
		}
		if !s.shared.UnreportedFlush() || s.untoldFlush() == nil {
			t.Fatalf("flush %d: there is nothing to be told", nth)
		}
		if s.shared.Tripped() || s.alloc.Retired() != 0 {
			t.Errorf("flush %d: the breaker is open: %v; %d spare units are retired", nth,
				s.shared.Tripped(), s.alloc.Retired())
		}
		if r.Moved > 0 != s.mapped(unit) {
			t.Errorf("flush %d: %+v, moved %v", nth, r, s.mapped(unit))
		}
		if err := s.keeper.call(context.Background(), func() {
			if st := s.keeper.coord.Status().Arbiter; st.Suspect != 0 {
				t.Errorf("flush %d: spare units are suspect: %+v", nth, st)
			}
			for _, m := range s.keeper.coord.AppendMirrors(nil) {
				if m.State != metadata.MirrorGood {
					t.Errorf("flush %d: mirror %+v", nth, m)
				}
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.keeper.call(context.Background(), func() {
		if s.keeper.coord.Status().FlushErrors == 0 {
			t.Error("status counts no failed flush")
		}
	}); err != nil {
		t.Fatal(err)
	}
}

// TestStopTellsOfAFlush: a stop reports a flush that failed, whichever of its own flushes it is,
// and also one that failed before.
func TestStopTellsOfAFlush(t *testing.T) {
	for nth := 1; ; nth++ {
		s, disk, d := opened(t)
		if r, err := s.add(1000); err != nil || r.Failed > 0 {
			t.Fatal(r, err)
		}
		disk.set(func() {
			disk.synced = 0
			disk.flush = func(n int) error {
				if n == nth {
					return unix.EIO
				}
				return nil
			}
		})
		err := s.writeBack()
		flushes := 0
		disk.set(func() { flushes = disk.synced })
		if flushes < nth {
			if err != nil {
				t.Errorf("no flush failed: %v", err)
			}
			if nth < 3 {
				t.Errorf("a stop makes %d flushes", flushes)
			}
			return
		}
		if err == nil || !strings.Contains(err.Error(), d.Path()) || !strings.Contains(err.Error(),
			"flush") {
			t.Errorf("flush %d failed: %v", nth, err)
		}
	}
}

// TestDevicesOutliveTheWriters: a descriptor that is closed under a write may be another file when
// the write gets to it.
func TestDevicesOutliveTheWriters(t *testing.T) {
	s, disk, d := opened(t)
	if err := s.keeper.leave(time.Minute); err != nil {
		t.Fatal(err)
	}
	hold := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(hold) })
	t.Cleanup(goOn)
	disk.set(func() { disk.hold = hold })
	moved := make(chan struct{})
	go func() {
		defer close(moved)
		_, _ = s.add(1000) // its end does not matter
	}()
	<-disk.waits
	released := make(chan error, 1)
	go func() { released <- s.release() }()
	<-s.keeper.ended
	// The keeper has ended, the write has not.
	for range 50 {
		if _, err := unix.FcntlInt(uintptr(disk.descriptors[0]), unix.F_GETFD, 0); err != nil {
			t.Fatalf("%s is closed, and a write to it is under way: %v", d.Path(), err)
		}
		time.Sleep(time.Millisecond)
	}
	goOn()
	if err := <-released; err != nil {
		t.Error(err)
	}
	<-moved
	if s.set.Devices != nil {
		t.Error("the devices are not closed")
	}
}
