package server

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"ublkremap/internal/control"
	"ublkremap/internal/host/set"
	"ublkremap/remap"
)

// successor is a server that begins with what the record of another one says.
func successor(t *testing.T, r *control.Record) *server {
	t.Helper()
	s := &server{log: zerolog.Nop(), record: r, shared: newShared(), set: &set.Set{}}
	s.inheritUntold()
	return s
}

// TestWordOfAFailedFlush: a server that leaves its device notes a flush that failed and was not
// reported. The next server keeps that note until it serves, and then reports the flush.
func TestWordOfAFailedFlush(t *testing.T) {
	t.Setenv(control.DirEnv, filepath.Join(t.TempDir(), "run"))
	if err := control.MakeDir(); err != nil {
		t.Fatal(err)
	}
	read := func() *control.Record {
		t.Helper()
		r, err := control.ReadRecord("w")
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first := successor(t, &control.Record{Name: "w", UUID: "00000000-0000-0000-0000-000000000001",
		Device: "/dev/ublkb7", ID: 7, PID: 1, Spares: []string{}})
	if err := first.record.Write(); err != nil {
		t.Fatal(err)
	}
	first.leaveUntold()
	if read().FlushUntold || first.shared.UnreportedFlush() {
		t.Error("word of a flush, and none has failed")
	}
	f := first.shared.Durable(0)
	f.Begin()
	f.End(-5)
	first.leaveUntold()
	if !read().FlushUntold {
		t.Fatal("no word of a flush that failed")
	}

	second := successor(t, read())
	if !second.shared.UnreportedFlush() {
		t.Error("the next server has not heard of it")
	}
	// It dies before it serves. The server after it must learn of the flush too.
	if third := successor(t, read()); !third.shared.UnreportedFlush() {
		t.Error("the server after that has not heard of it")
	}
	second.toldInPerson()
	if read().FlushUntold || !second.shared.UnreportedFlush() {
		t.Error("once it serves it tells it itself, and the record says nothing of it any more")
	}
	e := remap.NewEngine(remap.EngineConfig{Depth: 1, MaxBlocks: 1, ZeroBlocks: 1}, second.shared,
		&nobody{})
	e.Submit(&remap.Request{Op: remap.OpFlush})
	e.Complete(0, 0)
	e.Complete(1, 0)
	if second.shared.UnreportedFlush() || e.Inflight() != 0 {
		t.Error("a flush of the user did not tell it")
	}
}

// nobody is a driver whose caller knows which operations there are.
type nobody struct{}

func (*nobody) Issue(*remap.IO)      {}
func (*nobody) Finish(uint16, int32) {}
func (*nobody) Send(*remap.Message)  {}
func (*nobody) Now() int64           { return 0 }

// TestStopAfterALeave: a stop reports the failed flush that it inherited, although nothing has
// failed on its own disks.
func TestStopAfterALeave(t *testing.T) {
	s, _, _ := opened(t)
	if err := s.untoldFlush(); err != nil {
		t.Errorf("nothing has failed: %v", err)
	}
	s.shared.InheritFlush()
	if err := s.writeBack(); !errors.Is(err, ErrFlushUntold) {
		t.Errorf("the stop says %v", err)
	}
}

// TestLeftLeavesWord: the end of a server that leaves, after the last record's flush has failed.
func TestLeftLeavesWord(t *testing.T) {
	t.Setenv(control.DirEnv, filepath.Join(t.TempDir(), "run"))
	if err := control.MakeDir(); err != nil {
		t.Fatal(err)
	}
	s, disk, _ := opened(t)
	s.record = &control.Record{Name: "w", UUID: "00000000-0000-0000-0000-000000000001",
		Device: "/dev/ublkb7", ID: 7, PID: 1, Spares: []string{}}
	disk.set(func() {
		disk.synced = 0
		disk.flush = func(n int) error {
			if n == 1 {
				return unix.EIO
			}
			return nil
		}
	})
	_, _ = s.add(1000) // whatever came of it
	if err := s.left(); err != nil {
		t.Fatal(err)
	}
	if r, err := control.ReadRecord("w"); err != nil || !r.FlushUntold {
		t.Errorf("the record says %+v (%v)", r, err)
	}
}
