package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/internal/coordinator"
	"ublkremap/internal/host/set"
	"ublkremap/metadata"
	"ublkremap/remap"
	"ublkremap/test/diskfile"
)

const testSize = 32 << 20

// newSet makes a set in a file and returns the open backing.
func newSet(t *testing.T) *blockdev.Device {
	t.Helper()
	path := diskfile.New(t, testSize)
	d := diskfile.Open(t, path)
	// Blocks are as small as the file system allows, so that most units have several.
	plan, err := metadata.Plan(metadata.PlanParams{BackingSize: testSize,
		BlockSize: d.Geometry().LogicalBlock, PhysicalBlockSize: 4096, SpareBytes: 1 << 20,
		Name: "t"})
	if err != nil {
		t.Fatal(err)
	}
	if err := metadata.Create([]metadata.Device{d}, plan, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if again, err := blockdev.Open(context.Background(), path, blockdev.Options{}); err == nil {
			d = again // the test has closed it
		}
		defer d.Close()
		if t.Failed() {
			return
		}
		report, err := metadata.Check([]metadata.Device{d})
		if err != nil || !report.OK() {
			t.Errorf("check: %v\n%s", err, report.String())
		}
	})
	return d
}

// newKeeperOf binds a keeper to a set, with two queues that never begin.
func newKeeperOf(t *testing.T, d *blockdev.Device) *server {
	t.Helper()
	img, err := metadata.Load([]metadata.Device{d})
	if err != nil {
		t.Fatal(err)
	}
	s := &server{log: zerolog.New(zerolog.NewTestWriter(t)), stopAsked: make(chan struct{}),
		image: img, set: &set.Set{Devices: []*blockdev.Device{d}}}
	restored, err := remap.Restore(img.Layout(), img.Replay)
	if err != nil {
		t.Fatal(err)
	}
	s.shared, s.alloc = remap.NewShared(restored.Geometry, restored.Map), restored.Allocator
	s.keeper, err = newKeeper(s.log, configOf(s, img), []*blockdev.Device{d},
		descriptorsOf([]*blockdev.Device{d}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.keeper.stop)
	if err := s.keeper.open(context.Background()); err != nil {
		t.Fatal(err)
	}
	return s
}

// configOf is what tests make a keeper from; it has two queues.
func configOf(s *server, img *metadata.Image) coordinator.Config {
	return coordinator.Config{Image: img, Shared: s.shared, Allocator: s.alloc, Queues: 2,
		Depth:     16,
		Committer: metadata.Options{Session: 42}}
}

// stop ends the metadata in good order.
func stop(t *testing.T, s *server) {
	t.Helper()
	stopped, err := s.keeper.finish(time.Minute)
	if err := errors.Join(err, stopped.Metadata, stopped.Flush); err != nil {
		t.Fatal(err)
	}
}

func TestMovesGoThereAndBack(t *testing.T) {
	d := newSet(t)
	s := newKeeperOf(t, d)
	ctx := context.Background()
	geo := s.shared.Geometry()
	bs := geo.BlockSize

	// Known data in blocks of the displaced head, across its end, and behind.
	buf, err := blockdev.Aligned(4096)
	if err != nil {
		t.Fatal(err)
	}
	defer blockdev.Free(buf)
	fill := func(block uint64) {
		for i := range buf[:bs] {
			buf[i] = byte(block) ^ byte(block>>8) ^ byte(i)
		}
	}
	write := func(block uint64) {
		fill(block)
		_, off := geo.HomeOffset(block)
		if _, err := d.WriteAt(buf[:bs], off); err != nil {
			t.Fatal(err)
		}
	}
	ranges := []control.Range{{Block: 3, Count: 9}, {Block: geo.HeadBlocks - 5, Count: 10},
		{Block: geo.Blocks - 7, Count: 1}}
	var total uint64
	for _, r := range ranges {
		total += r.Count
		for b := range r.Count {
			write(r.Block + b)
		}
	}
	same := func(when string) {
		t.Helper()
		got := make([]byte, bs)
		for _, r := range ranges {
			for b := r.Block; b < r.Block+r.Count; b++ {
				_, off := geo.HomeOffset(b)
				if run, ok := s.shared.Map().Next(b, b+1); ok && run.Kind&remap.KindMapped != 0 {
					per := geo.BlocksPerUnit()
					_, unit := geo.SpareOffset(uint32(run.Spare / per))
					off = unit + int64(run.Spare%per)*int64(geo.BlockSize)
				}
				if _, err := d.ReadAt(got, off); err != nil && err != io.EOF {
					t.Fatal(err)
				}
				if fill(b); !bytes.Equal(got, buf[:bs]) {
					t.Fatalf("%s: block %d differs", when, b)
				}
			}
		}
	}
	reply, err := s.AddRemaps(ctx, ranges)
	if err != nil || reply.Blocks != total {
		t.Fatalf("%+v, %v; want %d blocks", reply, err, total)
	}
	same("in the spare region")
	list, err := tableOf(ctx, s.shared.Map(), s.shared.Geometry().Blocks)
	if err != nil {
		t.Fatal(err)
	}
	var listed uint64
	for _, r := range list {
		listed += r.Count
		if r.State != "mapped" || r.Cause != "operator" || r.Spare == nil {
			t.Errorf("%+v", r)
		}
		if _, err := time.Parse(time.RFC3339, r.Time); err != nil {
			t.Error(err)
		}
	}
	if listed != total {
		t.Errorf("%d blocks are listed, %d were moved: %+v", listed, total, list)
	}

	// Blocks that are there already are not moved.
	if reply, err = s.AddRemaps(ctx, ranges[2:]); err != nil || reply.Blocks != 0 {
		t.Errorf("again: %+v, %v", reply, err)
	}
	if reply, err = s.RemoveRemaps(ctx, ranges); err != nil || reply.Blocks != total {
		t.Fatalf("home: %+v, %v", reply, err)
	}
	same("home again")
	if list, err = tableOf(ctx, s.shared.Map(), s.shared.Geometry().Blocks); err != nil ||
		len(list) != 0 {
		t.Errorf("left: %+v, %v", list, err)
	}
	stop(t, s)
}

func TestRemapsOutliveTheServer(t *testing.T) {
	d := newSet(t)
	s := newKeeperOf(t, d)
	ctx := context.Background()
	if _, err := s.AddRemaps(ctx, []control.Range{{Block: 4000, Count: 100}}); err != nil {
		t.Fatal(err)
	}
	before, err := tableOf(ctx, s.shared.Map(), s.shared.Geometry().Blocks)
	if err != nil {
		t.Fatal(err)
	}
	// Once without a last checkpoint, once with.
	for _, orderly := range []bool{false, true} {
		if orderly {
			stop(t, s)
		}
		s.keeper.stop()
		s = newKeeperOf(t, d)
		after, err := tableOf(ctx, s.shared.Map(), s.shared.Geometry().Blocks)
		if err != nil || len(after) != len(before) || *after[0].Spare != *before[0].Spare ||
			after[0].Count != before[0].Count {
			t.Errorf("orderly %v: %+v, before %+v (%v)", orderly, after, before, err)
		}
	}
}

func TestMovesThatMakeNoSense(t *testing.T) {
	d := newSet(t)
	s := newKeeperOf(t, d)
	ctx := context.Background()
	blocks := s.shared.Geometry().Blocks
	for _, r := range []control.Range{{Block: blocks, Count: 1}, {Block: 0, Count: 0},
		{Block: blocks - 1, Count: 2}, {Block: 1, Count: ^uint64(0)}} {
		if _, err := s.AddRemaps(ctx, []control.Range{r}); !errors.Is(err, control.ErrInvalid) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	// More than the spare region holds.
	if _, err := s.AddRemaps(ctx, []control.Range{{Block: 0,
		Count: 257 * s.shared.Geometry().BlocksPerUnit()}}); !errors.Is(err, control.ErrFailed) {
		t.Errorf("too many: %v", err)
	}
	if err := s.Resume(ctx); !errors.Is(err, control.ErrFailed) {
		t.Errorf("resume: %v", err)
	}
	stop(t, s)
}

func TestKeeperThatEnded(t *testing.T) {
	d := newSet(t)
	s := newKeeperOf(t, d)
	s.keeper.stop()
	s.keeper.stop()
	if err := s.keeper.call(context.Background(), func() {}); !errors.Is(err, errEnded) {
		t.Error(err)
	}
	if !errors.Is(errEnded, control.ErrNotRunning) {
		t.Errorf("%v: who asks while a server ends is to look again, not to give up", errEnded)
	}
	if _, err := s.AddRemaps(context.Background(),
		[]control.Range{{Block: 1, Count: 1}}); !errors.Is(err, errEnded) {
		t.Error(err)
	}
}

func TestMailbox(t *testing.T) {
	b := newMailbox(4)
	for round := range 3 {
		for i := range 100 {
			b.put(&remap.Message{Unit: uint64(round*100 + i)})
		}
		got := b.take()
		if len(got) != 100 || got[0].Unit != uint64(round*100) ||
			got[99].Unit != uint64(round*100+99) {
			t.Fatalf("round %d: %d messages", round, len(got))
		}
	}
	if len(b.take()) != 0 {
		t.Error("messages come twice")
	}
	m := &remap.Message{}
	if n := testing.AllocsPerRun(100, func() { b.put(m); b.put(m); b.take() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestNoTimerWhileAllIsWell: no timer runs while nothing waits for a time.
func TestNoTimerWhileAllIsWell(t *testing.T) {
	s := newKeeperOf(t, newSet(t))
	ctx := context.Background()
	if _, err := s.AddRemaps(ctx, []control.Range{{Block: 1000, Count: 3}}); err != nil {
		t.Fatal(err)
	}
	if err := s.keeper.call(ctx, func() {
		if s.keeper.coord.MirrorsDue() != 0 || s.keeper.coord.Deadline() != 0 {
			t.Errorf("the coordinator waits for %d, %d", s.keeper.coord.MirrorsDue(),
				s.keeper.coord.Deadline())
		}
	}); err != nil {
		t.Fatal(err)
	}
}
