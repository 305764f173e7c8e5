package ublk_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"ublkremap/ublk"
)

// TestIncompleteRecovery: a server dies during its recovery of a device, before it has fetched
// from any queue, from some or from all. The next one must get the device, with every request.
func TestIncompleteRecovery(t *testing.T) {
	ctl := control(t)
	const size = 8 << 20
	file := backingFile(t, size)
	s := startServer(t, "create", file, 0*time.Second, int(ublk.Never), int(ublk.Never), 2, 16, 0)
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
		e.more(100)
		s.kill(t)
		cut(fetched)
		cut(info.Queues - fetched)
		s = startServer(t, "recover", file, 0*time.Second, s.id)
	}
	e.finish(t)
	f.Close()
	stopAndDelete(t, ctl, s.id)
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("the last server: %v", err)
	}
}

// TestRecoveryThatFails: a server fails during a recovery, some of its queues ready or none. The
// next one gets the device, with every request.
func TestRecoveryThatFails(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		ctl, r, s, f, e := recoverable(t, m, 8, 8)
		dev := s.Device
		e.more(50)
		s.leaves(t)
		want := errors.New("no such backing")
		for queue := dev.Info().Queues - 1; queue >= 0; queue-- {
			half, err := ublk.Recover(within(t), ctl, dev.Info().ID)
			if err != nil {
				t.Fatal(err)
			}
			if err := half.Run(within(t), failingTarget{queue: queue, err: want},
				ublk.RunOptions{}); !errors.Is(err, want) {
				t.Fatalf("run: %v", err)
			}
		}
		next, err := ublk.Recover(within(t), ctl, dev.Info().ID)
		if err != nil {
			t.Fatal(err)
		}
		s = run(t, ctl, next, r, m.options())
		e.more(50)
		e.finish(t)
		f.Close()
		s.remove(t)
	})
}
