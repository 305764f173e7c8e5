package ublk_test

import (
	"fmt"
	"testing"
	"time"

	"ublkremap/ublk"
)

// A server dies while it takes a device over: before it has fetched from any queue, from some or from all. The next one
// must get the device, with every request.
func TestRecoveryCutShort(t *testing.T) {
	ctl := control(t)
	const size = 8 << 20
	file := backingFile(t, size)
	s := startServer(t, "create", file, int(ublk.Never), 2, 16, 0)
	f := openDirect(t, fmt.Sprintf("/dev/ublkb%d", s.id))
	e := newExerciser(t, f, size, 8, 512, 64<<10)
	e.start(0)
	info, err := ctl.Info(within(t), s.id)
	if err != nil {
		t.Fatal(err)
	}
	cut := func(fetched int) {
		t.Helper()
		half, err := ublk.Recover(within(t), ctl, s.id)
		if err != nil {
			t.Fatal(err)
		}
		if fetched > 0 {
			of := half.Info()
			of.Queues = fetched
			if err := ublk.FetchMissing(within(t), of); err != nil {
				t.Fatal(err)
			}
		}
	}
	for fetched := range info.Queues + 1 {
		for target := e.ops.Load() + 100; e.ops.Load() < target; {
			time.Sleep(time.Millisecond)
		}
		s.kill(t)
		cut(fetched)
		cut(info.Queues - fetched)
		s = startServer(t, "recover", file, s.id)
	}
	e.finish(t)
	f.Close()
	stopAndDelete(t, ctl, s.id)
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("the last server: %v", err)
	}
}
