package breaker

import (
	"context"
	"errors"
	"sync/atomic"
	"syscall"
	"testing"

	"ublkremap/test/rig"
	"ublkremap/ublk"
	"ublkremap/ublk/ublktest"
)

// served is a disk that this test itself serves: a ublk device in memory, whose reads
// and writes can be answered with any errno that the block layer knows (blk_errors in
// block/blk-core.c; the driver takes others for EIO).
type served struct {
	path   string
	answer atomic.Pointer[answer]
}

// answer says how a request ends; 0: well.
type answer func(write bool, e rig.Extent) syscall.Errno

func newServed(t testing.TB) *served {
	t.Helper()
	v := &served{}
	ram, err := ublktest.NewRAM(diskMiB << 20)
	if err != nil {
		t.Fatal(err)
	}
	ram.Fail = func(r ublk.Request) int32 {
		f := v.answer.Load()
		if f == nil || r.Op != ublk.OpWrite && r.Op != ublk.OpRead {
			return 0
		}
		return -int32((*f)(r.Op == ublk.OpWrite, rig.At(r.Offset(), r.Length())))
	}
	params := ram.Params()
	params.Discard = nil
	v.path = serve(t, ram, params)
	t.Cleanup(func() { v.cure(t) }) // before that device is stopped
	return v
}

func (v *served) disk() string { return v.path }

// say makes the disk answer so from now on.
func (v *served) say(f answer) { v.answer.Store(&f) }

func (v *served) fail(_ testing.TB, c errnoCase, write bool, bad rig.Extent) {
	v.say(func(w bool, e rig.Extent) syscall.Errno {
		if w == write && e.Overlaps(bad) {
			return c.errno
		}
		return 0
	})
}

func (v *served) cure(testing.TB) { v.answer.Store(nil) }

// serve makes a ublk device of a target for as long as the test lasts.
func serve(t testing.TB, ram *ublktest.RAM, params ublk.Params) (path string) {
	t.Helper()
	ctl, err := ublk.OpenControl()
	if err != nil {
		t.Fatal(err)
	}
	dev, err := ublk.Create(context.Background(), ctl, ublk.Config{ID: ublk.AnyID, Queues: 1,
		Params: params})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- dev.Run(ctx, ram, ublk.RunOptions{}) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, dev.Delete(context.Background()), ctl.Close(),
			ram.Close()); err != nil {
			t.Errorf("the test's own device: %v", err)
		}
	})
	select {
	case <-dev.Ready():
	case err := <-ended:
		ended <- nil
		t.Fatalf("the test's own device: %v", err)
	}
	return dev.Info().BlockPath()
}
