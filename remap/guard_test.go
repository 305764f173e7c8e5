package remap

import (
	"syscall"
	"testing"
	"unsafe"

	"ublkremap/metadata"
)

// This file tests what the speed of the hot path depends on and a clock cannot judge: how many
// operations a request takes, what is allocated, and what lies on one cache line.

// TestOperationsPerRequest: a request is as many operations as it has places, no more.
func TestOperationsPerRequest(t *testing.T) {
	const mib = 256 // blocks of 4 KiB
	mapped := func(unit uint64, count, spare uint32) metadata.Entry {
		return entryOf(metadata.StateMapped, unit, count, 1, spare)
	}
	apart := func(from, to, step uint64) (out []metadata.Entry) {
		for u := from; u < to; u += step {
			out = append(out, mapped(u, 1, uint32(3*(u-from))))
		}
		return out
	}
	for _, c := range []struct {
		name         string
		table        []metadata.Entry
		block, count uint32
		want         int
	}{
		{"nothing remapped", nil, 4096, mib, 1},
		{"one block at home beside a remap", apart(4096, 4097, 1), 4097, 1, 1},
		{"one block in a spare unit", apart(4096, 4097, 1), 4096, 1, 1},
		{"begins with a remap", apart(4096, 4097, 1), 4096, mib, 2},
		{"a remap in the middle", apart(4200, 4201, 1), 4096, mib, 3},
		{"two remaps", apart(4200, 4300, 50), 4096, mib, 5},
		{"every other block remapped", apart(4096, 4096+mib, 2), 4096, mib, mib},
		{"spare units in a row", []metadata.Entry{mapped(4000, 1024, 0)}, 4096, mib, 1},
		{"spare units in a row, over the bounds of parts", []metadata.Entry{mapped(4096, 1024, 0)},
			4096 + 64 - 9, mib, 1},
		{"spare units in a row, over the bounds of leaves", []metadata.Entry{mapped(4096, 2048, 0)},
			4096 + 1024 - 9, mib, 2},
		{"the end of the head", nil, 250, mib, 2},
	} {
		for _, op := range []Op{OpRead, OpWrite} {
			r := newRig(t, 4096, 4096)
			for _, e := range c.table {
				r.s.m.Apply(e)
			}
			r.log = []IO{}
			if res := r.do(op, uint64(c.block), c.count); res != 0 {
				t.Fatal(c.name, res)
			}
			if len(r.log) != c.want {
				t.Errorf("%s: %d operations, want %d", c.name, len(r.log), c.want)
			}
		}
	}
}

// TestOperationsPerHeal: a write that fails is tried in place as often as the policy says, then
// written to a spare unit, read back there and committed, once each.
func TestOperationsPerHeal(t *testing.T) {
	r := newRig(t, 4096, 4096)
	_, off := r.s.geo.HomeOffset(5000)
	r.bad[[2]int64{0, off}] = int32(syscall.EIO)
	r.log = []IO{}
	if res := r.do(OpWrite, 5000, 1); res != 0 {
		t.Fatal(res)
	}
	if want := 1 + DefaultRetries + 2; len(r.log) != want || r.next != 1 || len(r.entries) != 1 {
		t.Errorf("%d operations, %d commits of %d entries, want %d, 1, 1", len(r.log), r.next,
			len(r.entries), want)
	}
}

// TestHealAllocates: the Arbiter's part of a heal makes the new leaf of the Map and no
// other garbage.
func TestHealAllocates(t *testing.T) {
	r := newRig(t, 4096, 1<<14)
	for i := range uint64(100) { // a parted leaf: the part and the list of parts
		r.s.m.Apply(entryOf(metadata.StateMapped, 4096+2*i, 1, 1, 1<<13+uint32(i)))
	}
	unit := uint64(4296)
	n := testing.AllocsPerRun(300, func() {
		m := Message{Kind: MsgReserve, Tag: 3, Unit: unit, Count: 1, First: 1, Last: 1,
			Errno: -int32(syscall.EIO)}
		r.a.Receive(&m)
		m = r.toE[0]
		if m.Kind != MsgReserved {
			t.Fatal(m)
		}
		m.Kind, m.First, m.Last = MsgCommit, 1, 1
		r.a.Receive(&m)
		r.a.Committed(r.tickets[0], true)
		r.toE, r.tickets, r.entries = r.toE[:0], r.tickets[:0], r.entries[:0]
		unit++
	})
	if n != 2 {
		t.Errorf("%v allocations per heal, want 2", n)
	}
	if got := r.s.m.Counts().Mapped; got != 100+301 {
		t.Errorf("%d remaps", got)
	}
}

// TestNoFalseSharing: fields that every request reads are on no cache line that is written to, and
// fields that each queue writes are on lines of its own.
func TestNoFalseSharing(t *testing.T) {
	var m Map
	if end, from := unsafe.Offsetof(m.root)+unsafe.Sizeof(m.root),
		unsafe.Offsetof(m.mapped); from < end+cacheLine {
		t.Errorf("Map: readers' fields end at %d, the writer's begin at %d", end, from)
	}
	var s Shared
	if end, from := unsafe.Offsetof(s.m)+unsafe.Sizeof(s.m), unsafe.Offsetof(s.tripped); from < end+
		cacheLine {
		t.Errorf("Shared: what does not change ends at %d, the rest begins at %d", end, from)
	}
	shared := newRig(t, 4096, 64).s
	a, b := shared.queues.enlist(), shared.queues.enlist()
	x, y := uintptr(unsafe.Pointer(a)), uintptr(unsafe.Pointer(b))
	if x%cacheLine != 0 || y%cacheLine != 0 || unsafe.Sizeof(*a)%cacheLine != 0 {
		t.Errorf("counters of %d bytes at %#x and %#x", unsafe.Sizeof(*a), x, y)
	}
}
