package remap

import (
	"syscall"
	"testing"
)

// TestTriesLeaveTags: reads that try pending blocks use a part of the tags. Reads of pending blocks
// that come meanwhile wait for a second, and are then answered with an error. Good blocks are read.
func TestTriesLeaveTags(t *testing.T) {
	const eio, medium = -int32(syscall.EIO), -int32(syscall.ENODATA)
	r := newRig(t, 512, 64)
	r.wear(2000, 8)
	r.want("read", r.do(OpRead, 2000, 8), medium)
	r.want("pending", r.s.m.Counts().Pending, uint64(8))
	for range 2 { // a second time: no tag is lost
		r.clock += int64(DefaultFailFast) + 1
		clear(r.results)
		fast := r.e.own.FailedFast
		for tag := range uint16(40) {
			r.e.Submit(&Request{Tag: tag, Op: OpRead, Block: 2000, Count: 1})
		}
		r.want("tries", len(r.ios), 64/triesShare)
		r.want("answered", len(r.results), 0)
		r.want("deadline", r.e.Deadline(), r.clock+int64(turnWait))
		r.clock = r.e.Deadline() - 1
		r.e.Tick(r.clock)
		r.want("answered before the deadline", len(r.results), 0)
		r.clock++
		r.e.Tick(r.clock)
		r.want("answered", len(r.results), 40-64/triesShare)
		r.want("failed fast", r.e.own.FailedFast-fast, uint64(40-64/triesShare))
		r.want("deadline", r.e.Deadline(), int64(0))
		for tag, res := range r.results {
			if res != eio || tag < 64/triesShare {
				t.Errorf("request %d: %d", tag, res)
			}
		}
		for tag := uint16(40); tag < 64; tag++ {
			r.e.Submit(&Request{Tag: tag, Op: OpRead, Block: 3000, Count: 8})
		}
		r.want("with good ones", len(r.ios), 64/triesShare+24)
		r.run()
		for tag := range uint16(64) {
			want := medium
			switch {
			case tag >= 40:
				want = 0
			case tag >= 64/triesShare:
				want = eio
			}
			r.want("result", r.results[tag], want)
		}
		r.want("held back", r.do(OpRead, 2000, 1), medium)
	}
	// One request may try all of its own blocks. Writes are not affected.
	r.clock += int64(DefaultFailFast) + 1
	r.want("all of them", r.do(OpRead, 1992, 24), medium)
	r.want("write", r.do(OpWrite, 2000, 8), int32(0))
	r.want("read", r.do(OpRead, 2000, 8), int32(0))
}

// TestNoTurnInSight: once reads of pending blocks have waited for a second in vain, those that come
// next are answered at once, and hold no tags. After the end of a try they wait again.
func TestNoTurnInSight(t *testing.T) {
	const eio, medium = -int32(syscall.EIO), -int32(syscall.ENODATA)
	const tries = 64 / triesShare
	r := newRig(t, 512, 64)
	r.wear(2000, 8)
	r.want("read", r.do(OpRead, 2000, 8), medium)
	r.clock += int64(DefaultFailFast) + 1
	clear(r.results)
	read := func(tag uint16) { r.e.Submit(&Request{Tag: tag, Op: OpRead, Block: 2000, Count: 1}) }
	for tag := range uint16(tries) {
		read(tag)
	}
	r.clock += int64(turnWait) - 1
	read(tries)
	r.want("answered within the second", len(r.results), 0)
	r.want("deadline", r.e.Deadline(), r.clock+1)
	r.clock++
	r.e.Tick(r.clock)
	r.want("answered after it", len(r.results), 1)
	for range 3 {
		read(tries + 1)
		r.want("answered at once", r.results[tries+1], eio)
		delete(r.results, tries+1)
	}
	r.want("waiting", r.e.waiting, 0)
	r.want("deadline", r.e.Deadline(), int64(0))
	// One try ends, well, and another read takes its place: the drive answers.
	clear(r.worn)
	for len(r.results) == 1 {
		r.step()
	}
	read(tries + 1)
	read(tries + 2)
	r.want("waiting", r.e.waiting, 1)
	r.want("deadline", r.e.Deadline(), r.clock+int64(turnWait))
	r.run()
	r.want("result", r.results[tries+2], int32(0))
	r.want("trying", r.e.trying, 0)
}

// TestTurns: if the drive works again, reads of pending blocks wait for each other, and none fails.
func TestTurns(t *testing.T) {
	r := newRig(t, 512, 64)
	r.wear(2000, 64)
	for block := uint64(2000); block < 2064; block += 8 {
		r.want("read", r.do(OpRead, block, 8), -int32(syscall.ENODATA))
	}
	r.want("pending", r.s.m.Counts().Pending, uint64(64))
	clear(r.worn)
	r.clock += int64(DefaultFailFast) + 1
	clear(r.results)
	for tag := range uint16(64) {
		r.e.Submit(&Request{Tag: tag, Op: OpRead, Block: 2000 + uint64(tag), Count: 1})
	}
	r.want("tries", len(r.ios), 64/triesShare)
	r.run()
	for tag := range uint16(64) {
		r.want("result", r.results[tag], int32(0))
	}
	r.want("waiting", r.e.waiting, 0)
	r.want("trying", r.e.trying, 0)
}

// TestAges: a request that is the same one at two looks has been under way since the first.
func TestAges(t *testing.T) {
	r := newRig(t, 512, 64)
	r.e.Submit(&Request{Tag: 1, Op: OpRead, Block: 8, Count: 8})
	r.e.Submit(&Request{Tag: 2, Op: OpRead, Block: 16, Count: 8})
	r.e.Submit(&Request{Tag: 3, Op: OpRead, Block: 24, Count: 8})
	first := r.clock
	r.e.LookAtAges()
	r.want("ages", r.s.Ages(), Ages{UnderWay: 3})
	r.clock += int64(SlowAfter) - 1
	r.e.LookAtAges()
	r.want("ages, not yet", r.s.Ages(), Ages{UnderWay: 3})
	r.step() // the first one ends, and its tag is used again
	r.e.Submit(&Request{Tag: 1, Op: OpRead, Block: 8, Count: 8})
	r.clock++
	r.e.LookAtAges()
	r.want("ages", r.s.Ages(), Ages{UnderWay: 3, Slow: 2, Oldest: first, Last: r.clock})
	r.clock += int64(SlowAfter)
	r.e.LookAtAges()
	r.want("ages", r.s.Ages(), Ages{UnderWay: 3, Slow: 3, Oldest: first, Last: r.clock})
	r.step()
	r.step()
	r.e.LookAtAges()
	last := r.clock
	r.want("ages", r.s.Ages(), Ages{UnderWay: 1, Slow: 1, Oldest: first + int64(SlowAfter),
		Last: last})
	r.run()
	r.clock++
	r.e.LookAtAges()
	r.want("ages of nothing", r.s.Ages(), Ages{Last: last})
}
