package server

import (
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"ublkremap/remap"
	"ublkremap/ublk"
)

// fakeRing records what a queue submits, and completes it when the test says so.
type fakeRing struct {
	stopping bool
	memory   ublk.Queue // makes buffers, and is used for nothing else
	h        *queue
	ops      []ringOp
	done     map[uint16]int32
	woken    int
}

// ringOp is an operation on the ring.
type ringOp struct {
	kind   string
	file   int
	buffer ublk.Buffer
	n, off int64
	flags  ublk.WriteFlags
	keep   bool
	id     uint64
}

func (r *fakeRing) ID() int                     { return 0 }
func (r *fakeRing) Depth() int                  { return 4 }
func (r *fakeRing) MaxIO() int                  { return 128 << 10 }
func (r *fakeRing) SetFile(int, *os.File) error { return nil }
func (r *fakeRing) Wakeup()                     { r.woken++ }
func (r *fakeRing) Done(tag uint16, res int32)  { r.done[tag] = res }

func (r *fakeRing) NewMemory(size int) (*ublk.Memory, error) { return r.memory.NewMemory(size) }
func (r *fakeRing) NewZeroes(size int) (*ublk.Memory, error) { return r.memory.NewZeroes(size) }
func (r *fakeRing) RequestBuffer(tag uint16) ublk.Buffer     { return r.memory.RequestBuffer(tag) }

func (r *fakeRing) Read(file int, b ublk.Buffer, n uint32, off int64, id uint64) {
	r.ops = append(r.ops, ringOp{kind: "read", file: file, buffer: b, n: int64(n), off: off,
		id: id})
}

func (r *fakeRing) Write(file int, b ublk.Buffer, n uint32, off int64, flags ublk.WriteFlags,
	id uint64) {
	r.ops = append(r.ops, ringOp{kind: "write", file: file, buffer: b, n: int64(n), off: off,
		flags: flags, id: id})
}

func (r *fakeRing) Flush(file int, id uint64) {
	r.ops = append(r.ops, ringOp{kind: "flush", file: file, id: id})
}

func (r *fakeRing) Stopping() bool { return r.stopping }

func (r *fakeRing) Discard(file int, off, n int64, id uint64) {
	r.ops = append(r.ops, ringOp{kind: "discard", file: file, n: n, off: off, id: id})
}

func (r *fakeRing) WriteZeroes(file int, off, n int64, keep bool, id uint64) {
	r.ops = append(r.ops, ringOp{kind: "zeroes", file: file, n: n, off: off, keep: keep, id: id})
}

// take returns what was submitted since the last take.
func (r *fakeRing) take() []ringOp {
	ops := r.ops
	r.ops = nil
	return ops
}

// newFakeRing makes a queue over a disk with FUA, or without.
func newFakeRing(t *testing.T, noFUA bool) *fakeRing {
	t.Helper()
	geo := remap.Geometry{BlockSize: 4096, Blocks: 1 << 16, Devices: 2,
		Spares: []remap.SpareExtent{{Count: 64, Device: 1, Offset: 1 << 20}}}
	geo.NoFUA = [remap.MaxDevices]bool{noFUA, noFUA}
	shared := remap.NewShared(geo, remap.NewMap(geo.Units(), 1))
	k := &keeper{kicked: make(chan struct{}, 1), boxes: []*mailbox{newMailbox(4)}, shared: shared}
	k.queues = make([]atomic.Pointer[queue], 1)
	r := &fakeRing{done: map[uint16]int32{}}
	var err error
	if r.h, err = (&target{keeper: k, shared: shared}).newQueue(r); err != nil {
		t.Fatal(err)
	}
	return r
}

// request is a request of the kernel, in blocks of 4096 bytes.
func request(tag uint16, op ublk.Op, flags ublk.RequestFlags, block, count uint32) ublk.Request {
	return ublk.Request{Tag: tag, Op: op, Flags: flags, StartSector: uint64(block) * 8,
		Sectors: count * 8}
}

// TestQueueSubmits: for each kind of request the test checks what comes onto the ring, and what the
// kernel is answered.
func TestQueueSubmits(t *testing.T) {
	const fua = ublk.FlagFUA
	for _, c := range []struct {
		name  string
		noFUA bool
		r     ublk.Request
		// What is submitted, one after the other, each completed before the next; and the answer.
		ops    []string
		answer int32
	}{
		{"read", false, request(1, ublk.OpRead, 0, 100, 4),
			[]string{"read 0 @409600+16384 flags 0"}, 16384},
		{"write", false, request(1, ublk.OpWrite, 0, 100, 4),
			[]string{"write 0 @409600+16384 flags 0"}, 16384},
		{"FUA write", false, request(1, ublk.OpWrite, fua, 100, 4),
			[]string{fmt.Sprintf("write 0 @409600+16384 flags %d", ublk.WriteFUA)}, 16384},
		{"FUA write without FUA", true, request(1, ublk.OpWrite, fua, 100, 4),
			[]string{"write 0 @409600+16384 flags 0", "flush 0"}, 16384},
		{"zeroes", false, request(1, ublk.OpWriteZeroes, 0, 100, 4),
			[]string{"zeroes 0 @409600+16384 keep true"}, 0},
		{"FUA zeroes", false, request(1, ublk.OpWriteZeroes, fua, 100, 4),
			[]string{"zeroes 0 @409600+16384 keep true", "flush 0"}, 0},
		{"FUA zeroes without FUA", true, request(1, ublk.OpWriteZeroes, fua, 100, 4),
			[]string{"zeroes 0 @409600+16384 keep true", "flush 0"}, 0},
		{"discard", false, request(1, ublk.OpDiscard, 0, 100, 4),
			[]string{"discard 0 @409600+16384"}, 0},
		{"something else", false, request(1, 77, 0, 100, 4), nil, -int32(syscall.EOPNOTSUPP)},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newFakeRing(t, c.noFUA)
			r.h.Request(c.r)
			for _, want := range c.ops {
				if _, answered := r.done[1]; answered {
					t.Errorf("answered before %s", want)
				}
				ops := r.take()
				if len(ops) != 1 || ops[0].String() != want {
					t.Fatalf("submitted %v, want %s", ops, want)
				}
				res := int32(0)
				if ops[0].kind == "read" || ops[0].kind == "write" {
					res = int32(ops[0].n)
					if ops[0].buffer != r.RequestBuffer(1) {
						t.Errorf("not the request's data")
					}
				}
				r.h.Complete(ops[0].id, res)
			}
			if res, answered := r.done[1]; !answered || res != c.answer {
				t.Errorf("answered %v: %d, want %d", answered, res, c.answer)
			}
			if ops := r.take(); len(ops) > 0 {
				t.Errorf("and then %v", ops)
			}
		})
	}
}

func (o ringOp) String() string {
	switch o.kind {
	case "flush":
		return fmt.Sprintf("flush %d", o.file)
	case "zeroes":
		return fmt.Sprintf("zeroes %d @%d+%d keep %v", o.file, o.off, o.n, o.keep)
	case "discard":
		return fmt.Sprintf("discard %d @%d+%d", o.file, o.off, o.n)
	}
	return fmt.Sprintf("%s %d @%d+%d flags %d", o.kind, o.file, o.off, o.n, o.flags)
}

// TestQueueFlushesAll: a flush covers each device that may hold unflushed writes. After a start
// these are all devices.
func TestQueueFlushesAll(t *testing.T) {
	r := newFakeRing(t, false)
	r.h.Request(ublk.Request{Tag: 2, Op: ublk.OpFlush})
	ops := r.take()
	var files []int
	for _, o := range ops {
		if o.kind != "flush" {
			t.Errorf("submitted %v", o)
		}
		files = append(files, o.file)
	}
	slices.Sort(files)
	if !slices.Equal(files, []int{0, 1}) {
		t.Fatalf("devices %v were flushed", files)
	}
	r.h.Complete(ops[0].id, 0)
	if len(r.done) > 0 {
		t.Error("answered with one of two devices flushed")
	}
	r.h.Complete(ops[1].id, -int32(syscall.EIO))
	if r.done[2] != -int32(syscall.EIO) {
		t.Errorf("answered %d", r.done[2])
	}
	if ops := r.take(); len(ops) > 0 {
		t.Errorf("a flush that failed is tried again: %v", ops)
	}
}

// TestQueueWritesShort: after a short result the operation is continued, from the request's buffer
// and with the flags that it was begun with.
func TestQueueWritesShort(t *testing.T) {
	r := newFakeRing(t, false)
	r.h.Request(request(1, ublk.OpWrite, ublk.FlagFUA, 100, 4))
	first := r.take()[0]
	r.h.Complete(first.id, 4096)
	if len(r.done) > 0 {
		t.Fatal("a short write is answered as whole")
	}
	rest := r.take()
	want := ringOp{kind: "write", n: 3 * 4096, off: 101 * 4096, flags: ublk.WriteFUA,
		buffer: r.RequestBuffer(1).At(4096), id: first.id}
	if len(rest) != 1 || rest[0] != want {
		t.Fatalf("submitted %+v, want %+v", rest, want)
	}
	r.h.Complete(rest[0].id, 3*4096)
	if r.done[1] != 4*4096 {
		t.Errorf("answered %d", r.done[1])
	}
}

// TestQueueHealsDurably: what a heal writes to a spare unit is durable before the Arbiter is told.
// The same holds for zeroes, which come from the buffer of zeroes.
func TestQueueHealsDurably(t *testing.T) {
	for _, noFUA := range []bool{false, true} {
		for _, op := range []ublk.Op{ublk.OpWrite, ublk.OpWriteZeroes} {
			t.Run(fmt.Sprintf("no FUA %v, op %d", noFUA, op), func(t *testing.T) {
				r := newFakeRing(t, noFUA)
				r.h.Request(request(1, op, 0, 100, 1))
				var m remap.Message
				for m.Kind != remap.MsgReserve {
					for _, o := range r.take() {
						r.h.Complete(o.id, -int32(syscall.ENODATA))
					}
					if got := r.h.keeper.boxes[0].take(); len(got) > 0 {
						m = got[len(got)-1]
					}
				}
				r.h.in.put(&remap.Message{Kind: remap.MsgReserved, Tag: 1, Unit: m.Unit, Count: 1,
					Spare: 5})
				r.h.Wake()
				want := ringOp{kind: "write", file: 1, n: 4096, off: 1<<20 + 5*4096,
					flags: ublk.WriteFUA, buffer: r.RequestBuffer(1)}
				if op == ublk.OpWriteZeroes {
					want.buffer = r.h.zeroes.Buffer(0)
				}
				if noFUA {
					want.flags = 0
				}
				ops := r.take()
				if len(ops) != 1 {
					t.Fatalf("submitted %v", ops)
				}
				if want.id = ops[0].id; ops[0] != want {
					t.Fatalf("submitted %+v, want %+v", ops[0], want)
				}
				r.h.Complete(want.id, 4096)
				if noFUA {
					if got := r.h.keeper.boxes[0].take(); len(got) > 0 {
						t.Fatalf("told before it was flushed: %+v", got)
					}
					if ops = r.take(); len(ops) != 1 || ops[0].String() != "flush 1" {
						t.Fatalf("submitted %v", ops)
					}
					r.h.Complete(ops[0].id, 0)
				}
				// It is read back into the memory for data that nobody needs.
				proof := ringOp{kind: "read", file: 1, n: 4096, off: 1<<20 + 5*4096,
					buffer: r.h.sink.Buffer(0)}
				if ops = r.take(); len(ops) != 1 {
					t.Fatalf("submitted %v", ops)
				}
				if proof.id = ops[0].id; ops[0] != proof {
					t.Fatalf("submitted %+v, want %+v", ops[0], proof)
				}
				if got := r.h.keeper.boxes[0].take(); len(got) > 0 {
					t.Fatalf("told before it was read back: %+v", got)
				}
				r.h.Complete(proof.id, 4096)
				if got := r.h.keeper.boxes[0].take(); len(got) != 1 ||
					got[0].Kind != remap.MsgCommit {
					t.Fatalf("the Arbiter is told %+v", got)
				}
				if len(r.done) > 0 {
					t.Error("answered before the change is durable")
				}
				r.h.in.put(&remap.Message{Kind: remap.MsgCommitted, Tag: 1})
				r.h.Wake()
				if res, answered := r.done[1]; !answered || res < 0 {
					t.Errorf("answered %v: %d", answered, res)
				}
			})
		}
	}
}
