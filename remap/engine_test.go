package remap

import (
	"syscall"
	"testing"

	"ublkremap/metadata"
)

// rig is the least driver of one engine and its arbiter: what is issued is done
// at once when the rig runs, and what is committed is durable at once.
type rig struct {
	t       testing.TB
	e       *Engine
	a       *Arbiter
	s       *Shared
	alloc   *Allocator
	ios     []IO
	toA     []Message
	toE     []Message
	moves   []Transfer
	tickets []Ticket
	next    Ticket
	bad     map[[2]int64]int32 // device and byte offset of a block: errno
	log     []IO
	results map[uint16]int32
	ended   []MoveResult
	entries []metadata.Entry
	unknown bool // commits end with an unknown outcome
	clock   int64
	slow    int64              // how long an operation takes to fail
	worn    map[[2]int64]int32 // as bad, but of reads only: writes are taken
	alerts  []Alert
	gone    map[uint8]string
	// transfer, if set, is what the disks answer to transfers, with contents.
	transfer func(t *Transfer) int32
	watch    func()         // called for each transfer
	away     map[int64]bool // devices that answer EIO to everything
	internal []internalEnd
	spoiled  []BadSpare
}

func (r *rig) Issue(io *IO)                 { r.ios = append(r.ios, *io) }
func (r *rig) Finish(tag uint16, res int32) { r.results[tag] = res }
func (r *rig) Now() int64                   { return r.clock }
func (r *rig) WallClock() uint32            { return 1 }
func (r *rig) Moved(m MoveResult)           { r.ended = append(r.ended, m) }
func (r *rig) SpareFailed(b BadSpare)       { r.spoiled = append(r.spoiled, b) }
func (r *rig) Missing(d uint8) string       { return r.gone[d] }
func (r *rig) Alert(a Alert)                { r.alerts = append(r.alerts, a) }
func (r *rig) Transfer(t *Transfer) {
	r.moves = append(r.moves, *t)
	if r.watch != nil {
		r.watch()
	}
}
func (r *rig) Commit(e []metadata.Entry) (Ticket, error) {
	r.entries = append(r.entries, e...)
	r.next++
	r.tickets = append(r.tickets, r.next)
	return r.next, nil
}
func (r *rig) Resume(e []metadata.Entry) (Ticket, error) { return r.Commit(e) }

// engineDriver and arbiterDriver give the two meanings of Send their own types.
type (
	engineDriver  struct{ *rig }
	arbiterDriver struct{ *rig }
)

func (d engineDriver) Send(m *Message)            { d.toA = append(d.toA, *m) }
func (d arbiterDriver) Send(_ uint16, m *Message) { d.toE = append(d.toE, *m) }

const rigBlocks = 1 << 16

func newRig(t testing.TB, blockSize int, spares uint32) *rig {
	return newRigOf(t, blockSize, 0, spares)
}

// newRigOf has a disk with that physical block.
func newRigOf(t testing.TB, blockSize, physical int, spares uint32) *rig {
	r := &rig{t: t, bad: map[[2]int64]int32{}, worn: map[[2]int64]int32{},
		results: map[uint16]int32{}, clock: 1}
	blocks := uint64(rigBlocks)
	home := int64(blocks) * int64(blockSize)
	geo := Geometry{BlockSize: blockSize, PhysicalBlock: physical, Blocks: blocks, Devices: 1,
		HeadBlocks: 256, HeadOffset: home,
		Spares: []SpareExtent{{First: 0, Count: spares, Offset: home + 256*int64(blockSize)}}}
	m := NewMap(geo.Units(), int(geo.BlocksPerUnit()))
	r.s = NewShared(geo, m)
	alloc, err := NewAllocator([]SpareRegion{{First: 0, Count: spares}})
	if err != nil {
		t.Fatal(err)
	}
	r.alloc = alloc
	r.e = NewEngine(EngineConfig{Depth: 64, MaxBlocks: (1 << 20) / blockSize,
		ZeroBlocks: (64 << 10) / blockSize, DiscardBlocks: (64 << 10) / blockSize,
		InternalTags: rigInternal, Internal: r}, r.s, engineDriver{r})
	r.a = NewArbiter(ArbiterConfig{Queues: 1, Depth: 64, InternalTags: rigInternal,
		Buffer: make([]byte, 8192)}, r.s, alloc, r, arbiterDriver{r})
	return r
}

// result is what the rig's disk answers to one operation.
func (r *rig) result(device uint8, offset, length int64, op Op) int32 {
	if r.away[int64(device)] {
		return -int32(syscall.EIO)
	}
	for i, faults := range []map[[2]int64]int32{r.bad, r.worn} {
		if len(faults) == 0 || i == 1 && op != OpRead {
			continue
		}
		bs := int64(r.s.geo.BlockSize)
		for at := offset; at < offset+length; at += bs {
			if errno := faults[[2]int64{int64(device), at}]; errno != 0 {
				r.clock += r.slow
				return -errno
			}
		}
	}
	if op == OpRead || op == OpWrite {
		return int32(length)
	}
	return 0
}

// run carries on until nothing is left to do.
func (r *rig) run() {
	for n := 0; len(r.ios)+len(r.toA)+len(r.toE)+len(r.moves)+len(r.tickets) > 0; n++ {
		if n > 100000 {
			r.t.Fatal("the engine does not come to rest")
		}
		r.step()
	}
	if r.e.Inflight() != 0 {
		r.t.Fatalf("%d requests never ended", r.e.Inflight())
	}
}

// step lets the next thing happen.
func (r *rig) step() {
	switch {
	case len(r.ios) > 0:
		io := r.ios[0]
		r.ios = append(r.ios[:0], r.ios[1:]...)
		if r.log != nil {
			r.log = append(r.log, io)
		}
		r.e.Complete(io.ID, r.result(io.Device, io.Offset, io.Length, io.Op))
	case len(r.toA) > 0:
		m := r.toA[0]
		r.toA = append(r.toA[:0], r.toA[1:]...)
		r.a.Receive(&m)
	case len(r.toE) > 0:
		m := r.toE[0]
		r.toE = append(r.toE[:0], r.toE[1:]...)
		r.e.Answer(&m)
	case len(r.moves) > 0:
		t := r.moves[0]
		r.moves = append(r.moves[:0], r.moves[1:]...)
		if r.transfer != nil {
			r.a.Transferred(t.ID, r.transfer(&t))
		} else {
			r.a.Transferred(t.ID, r.result(t.Device, t.Offset, int64(len(t.Data)), t.Op))
		}
	default:
		t := r.tickets[0]
		r.tickets = append(r.tickets[:0], r.tickets[1:]...)
		r.a.Committed(t, !r.unknown)
		r.a.Advance()
	}
}

func (r *rig) do(op Op, block uint64, count uint32) int32 {
	r.e.Submit(&Request{Op: op, Block: block, Count: count})
	r.run()
	return r.results[0]
}

func (r *rig) breakHome(block uint64, errno syscall.Errno) {
	d, off := r.s.geo.HomeOffset(block)
	r.bad[[2]int64{int64(d), off}] = int32(errno)
}

// wear lets blocks at home take writes and not read.
func (r *rig) wear(block, count uint64) {
	for b := block; b < block+count; b++ {
		d, off := r.s.geo.HomeOffset(b)
		r.worn[[2]int64{int64(d), off}] = int32(syscall.ENODATA)
	}
}

// wearSpare lets a spare unit take writes and not read.
func (r *rig) wearSpare(unit uint32) {
	d, off := r.s.geo.SpareOffset(unit)
	for i := int64(0); i < metadata.UnitSize; i += int64(r.s.geo.BlockSize) {
		r.worn[[2]int64{int64(d), off + i}] = int32(syscall.EIO)
	}
}

func (r *rig) breakSpare(unit uint32, errno syscall.Errno) {
	d, off := r.s.geo.SpareOffset(unit)
	for i := int64(0); i < metadata.UnitSize; i += int64(r.s.geo.BlockSize) {
		r.bad[[2]int64{int64(d), off + i}] = int32(errno)
	}
}

func (r *rig) want(what string, got, want any) {
	r.t.Helper()
	if got != want {
		r.t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestWriteHealsOnlyWhatFails(t *testing.T) {
	for _, bs := range []int{512, 4096} {
		r := newRig(t, bs, 64)
		bad := map[uint64]syscall.Errno{1003: syscall.EIO, 1004: syscall.ENODATA,
			1100: syscall.EREMOTEIO}
		for block, errno := range bad {
			r.breakHome(block, errno)
		}
		r.want("write", r.do(OpWrite, 900, 256), int32(0))
		for block := uint64(880); block < 1200; block++ {
			run, ok := r.s.m.Next(block, block+1)
			if mapped := ok && run.Kind == KindMapped; mapped != (bad[block] != 0) {
				t.Errorf("block size %d: block %d is mapped: %v", bs, block, mapped)
			}
		}
		r.want("read", r.do(OpRead, 900, 256), int32(0))
	}
}

func TestNeighboursOfManyBadBlocksStayHome(t *testing.T) {
	r := newRig(t, 512, 1024)
	for b := uint64(5003); b < 5100; b++ {
		r.breakHome(b, syscall.EIO)
	}
	r.want("write", r.do(OpWrite, 4096, 2048), int32(0))
	for b := uint64(4096); b < 4096+2048; b++ {
		_, mapped := r.s.m.Next(b, b+1)
		if bad := b >= 5003 && b < 5100; bad && !mapped || mapped &&
			(b/8 < 5003/8 || b/8 > 5099/8) {
			t.Errorf("block %d: bad %v, mapped %v", b, bad, mapped)
		}
	}
}

func TestHealMapsSingleBlocks(t *testing.T) {
	r := newRig(t, 512, 64)
	r.breakHome(1003, syscall.EIO)
	r.want("write", r.do(OpWrite, 1000, 16), int32(0))
	info := r.s.m.Unit(125)
	r.want("places", info.N, 1)
	r.want("mask", info.Places[0].Mask, uint8(1<<3))
	r.want("used spares", r.alloc.Used(), uint64(1))
	r.want("read", r.do(OpRead, 1000, 16), int32(0))

	// Another block of the unit joins its spare unit.
	r.breakHome(1006, syscall.EIO)
	r.want("write", r.do(OpWrite, 1006, 1), int32(0))
	info = r.s.m.Unit(125)
	r.want("places", info.N, 1)
	r.want("mask", info.Places[0].Mask, uint8(1<<3|1<<6))

	// Block 3's slot in the spare unit fails: it alone moves on.
	r.breakSpare(info.Places[0].Spare, syscall.EIO)
	r.want("write", r.do(OpWrite, 1003, 1), int32(0))
	info = r.s.m.Unit(125)
	r.want("places", info.N, 2)
	r.want("retired", r.alloc.Retired(), uint64(1))
	r.want("claims", r.a.Status().Claims, 0)
}

func TestFailedReadMakesPendingAndWriteGoesToSpare(t *testing.T) {
	r := newRig(t, 512, 64)
	r.breakHome(2000, syscall.ENODATA)
	r.want("read", r.do(OpRead, 1996, 8), -int32(syscall.ENODATA))
	r.want("pending", r.s.m.Counts().Pending, uint64(1))
	r.want("used", r.alloc.Used(), uint64(0))
	clear(r.bad) // the drive's cache would take the write
	r.want("write", r.do(OpWrite, 1996, 8), int32(0))
	r.want("pending", r.s.m.Counts().Pending, uint64(0))
	r.want("mapped", r.s.m.Counts().Mapped, uint64(1))
}

func TestTransportErrorUsesNoSpare(t *testing.T) {
	for _, errno := range []syscall.Errno{
		syscall.ENOLINK, syscall.ETIMEDOUT, syscall.ENODEV, syscall.ENXIO, syscall.EBADE,
		syscall.EOPNOTSUPP,
		syscall.EINVAL, syscall.ENOSPC, syscall.EROFS, syscall.EPERM, syscall.EILSEQ,
	} {
		r := newRig(t, 512, 64)
		r.breakHome(2000, errno)
		r.want("write", r.do(OpWrite, 1996, 8), -int32(errno))
		r.want("used", r.alloc.Used(), uint64(0))
		r.want("transport errors", r.e.own.TransportErrors, uint64(1))
	}
}

func TestUnknownCommitTripsBreaker(t *testing.T) {
	r := newRig(t, 512, 64)
	r.breakHome(2000, syscall.EIO)
	r.unknown = true
	r.want("write", r.do(OpWrite, 2000, 1), -int32(syscall.EIO))
	r.want("tripped", r.s.Tripped(), true)
	r.want("used", r.alloc.Used(), uint64(0))
	r.want("read of the block", r.do(OpRead, 2000, 1), -int32(syscall.EIO))
	r.unknown = false
	if err := r.a.Resume(); err != nil {
		t.Fatal(err)
	}
	r.run()
	r.want("tripped", r.s.Tripped(), false)
	r.want("read of the block", r.do(OpRead, 2000, 1), int32(0))
	r.want("used", r.alloc.Used(), uint64(1))
}

func TestSpareFull(t *testing.T) {
	r := newRig(t, 512, 1)
	r.breakHome(2000, syscall.EIO)
	r.breakHome(3000, syscall.ENODATA)
	r.want("first", r.do(OpWrite, 2000, 1), int32(0))
	r.want("second", r.do(OpWrite, 3000, 1), -int32(syscall.ENODATA))
	r.want("tripped", r.s.Tripped(), false)
	r.want("read of the first", r.do(OpRead, 2000, 1), int32(0))
}

func TestBadSparesAreRetiredWithTheHeal(t *testing.T) {
	r := newRig(t, 512, 64)
	r.breakHome(2000, syscall.EIO)
	r.breakSpare(0, syscall.EIO)
	r.want("write", r.do(OpWrite, 2000, 1), int32(0))
	r.want("retired", r.alloc.Retired(), uint64(1))
	r.want("used", r.alloc.Used(), uint64(1))

	// When every spare write fails the path is to blame.
	r = newRig(t, 512, 64)
	r.breakHome(2000, syscall.EIO)
	for u := range uint32(64) {
		r.breakSpare(u, syscall.EIO)
	}
	r.want("write", r.do(OpWrite, 2000, 1), -int32(syscall.EIO))
	r.want("tripped", r.s.Tripped(), true)
	r.want("retired", r.alloc.Retired(), uint64(0))
	r.want("used", r.alloc.Used(), uint64(0))
}

func TestMoveToSpareAndHome(t *testing.T) {
	r := newRig(t, 512, 2048)
	if err := r.a.Move(Move{ID: 1, Block: 1003, Count: 1500, ToSpare: true,
		Cause: metadata.CauseOperator}); err != nil {
		t.Fatal(err)
	}
	r.run()
	r.want("ended", len(r.ended), 1)
	r.want("moved", r.ended[0].Moved, uint64(1500))
	if run, ok := r.s.m.Next(0, rigBlocks); !ok || run.Start != 1003 || run.Kind != KindMapped {
		t.Errorf("first run: %+v", run)
	}
	used := r.alloc.Used()
	if used == 0 {
		t.Error("no spare unit in use")
	}
	if err := r.a.Move(Move{ID: 2, Block: 0, Count: rigBlocks,
		Cause: metadata.CauseOperator}); err != nil {
		t.Fatal(err)
	}
	r.run()
	r.want("moved home", r.ended[1].Moved, uint64(1500))
	r.want("used", r.alloc.Used(), uint64(0))
	r.want("free", r.alloc.FreeCount(), uint64(2048))
	if _, ok := r.s.m.Next(0, rigBlocks); ok {
		t.Error("the map is not empty")
	}
}

func TestRequestsSurviveMassFailure(t *testing.T) {
	r := newRig(t, 512, 4096)
	for b := uint64(0); b < 2048; b++ {
		r.breakHome(4096+b, syscall.EIO)
	}
	r.log = []IO{}
	r.want("1 MiB write over bad media", r.do(OpWrite, 4096, 2048), int32(0))
	r.want("mapped", r.s.m.Counts().Mapped, uint64(256))
	if len(r.log) > 350 {
		t.Errorf("%d operations for one request", len(r.log))
	}
	r.want("write-zeroes", r.do(OpWriteZeroes, 4096, 2048), int32(0))
	r.want("discard", r.do(OpDiscard, 4000, 4096), int32(0))
	r.want("flush", r.do(OpFlush, 0, 0), int32(0))
}

// instant is a driver that keeps nothing but the last operation.
type instant struct {
	io       IO
	internal int // internal requests that ended
}

func (d *instant) Issue(io *IO)         { d.io = *io }
func (d *instant) Finish(uint16, int32) {}
func (d *instant) Send(*Message)        {}
func (d *instant) Now() int64           { return 0 }

func (d *instant) FinishInternal(*InternalResult) { d.internal++ }

func engineForBench(remaps int) (*Engine, *instant) {
	geo := Geometry{BlockSize: 4096, Blocks: 1 << 28, Devices: 1, HeadBlocks: 256,
		HeadOffset: 1 << 40,
		Spares:     []SpareExtent{{Count: 1 << 24, Offset: 1 << 41}}}
	b := NewBuilder(geo.Units(), 1)
	for i := range remaps {
		b.Apply(metadata.Entry{Unit: uint64(i) * 128, Spare: uint32(i), Count: 1, Mask: 1,
			State: metadata.StateMapped})
	}
	d := &instant{}
	return NewEngine(EngineConfig{Depth: 128, MaxBlocks: 256, ZeroBlocks: 16},
		NewShared(geo, b.Map()), d), d
}

func (d *instant) request(e *Engine, op Op, block uint64, count uint32) {
	r := Request{Tag: 3, Op: op, Block: block, Count: count}
	e.Submit(&r)
	for e.Inflight() > 0 {
		e.Complete(d.io.ID, int32(d.io.Length))
	}
	e.Publish()
}

func TestEngineAllocatesNothing(t *testing.T) {
	e, d := engineForBench(1000)
	for _, c := range []struct {
		name  string
		block uint64
		count uint32
	}{{"home", 1 << 20, 1}, {"spare", 128 * 7, 1}, {"across the head's end", 250, 16}} {
		if n := testing.AllocsPerRun(100,
			func() { d.request(e, OpWrite, c.block, c.count) }); n != 0 {
			t.Errorf("%s: %v allocations per request", c.name, n)
		}
	}
}

func TestHealAllocatesNothingInTheEngine(t *testing.T) {
	e, d := engineForBench(0)
	n := testing.AllocsPerRun(100, func() {
		r := Request{Tag: 3, Op: OpWrite, Block: 5000, Count: 1}
		e.Submit(&r)
		for range 1 + DefaultRetries {
			e.Complete(d.io.ID, -int32(syscall.EIO))
		}
		e.Answer(&Message{Kind: MsgReserved, Tag: 3, Spare: 9, Count: 1})
		e.Complete(d.io.ID, 4096)
		if !d.io.Discard {
			t.Fatal("not read back")
		}
		e.Complete(d.io.ID, 4096)
		e.Answer(&Message{Kind: MsgCommitted, Tag: 3})
		if e.Inflight() != 0 {
			t.Fatal("not finished")
		}
	})
	if n != 0 {
		t.Errorf("%v allocations per heal", n)
	}
}

// TestSpareAlertsOnce: a full spare region is told once, however many heals find it so.
func TestSpareAlertsOnce(t *testing.T) {
	r := newRig(t, 4096, 20)
	count := func(a Alert) (n int) {
		for _, got := range r.alerts {
			if got == a {
				n++
			}
		}
		return n
	}
	for b := uint64(1000); b < 1040; b++ {
		r.breakHome(b, syscall.EIO)
		r.do(OpWrite, b, 1)
	}
	if low, full := count(AlertSpareLow), count(AlertSpareFull); low != 1 || full != 1 {
		t.Errorf("20 spare units, 40 bad blocks: told %d times that they run low, %d times that "+
			"none is free; want once each", low, full)
	}
}
