package remap

import (
	"syscall"
	"testing"
)

// wayRig notes what is known of each request when it is answered.
type wayRig struct {
	engineDriver
	answers map[uint16]Answer
}

func (w *wayRig) Finish(tag uint16, res int32) {
	w.answers[tag] = w.e.Answering(tag)
	w.engineDriver.Finish(tag, res)
}

// TestAnswering: the way of each kind of request, and since when one that met a bad block is known.
func TestAnswering(t *testing.T) {
	r := newRig(t, 512, 64)
	w := &wayRig{engineDriver{r}, map[uint16]Answer{}}
	r.e.drv = w
	last := func() Answer {
		t.Helper()
		if len(w.answers) != 1 {
			t.Fatalf("%d answers", len(w.answers))
		}
		for tag, a := range w.answers {
			delete(w.answers, tag)
			return a
		}
		return Answer{}
	}
	r.want("read", r.do(OpRead, 100, 8), int32(0))
	r.want("a read at home", last(), Answer{OpRead, WayHome, 0})
	r.want("flush", r.do(OpFlush, 0, 0), int32(0))
	r.want("a flush", last(), Answer{OpFlush, WayHome, 0})

	r.breakHome(1003, syscall.EIO)
	r.clock = 1000
	r.want("write", r.do(OpWrite, 1000, 16), int32(0))
	r.want("a write that is healed", last(), Answer{OpWrite, WayHeal, 1000})
	r.want("read", r.do(OpRead, 1000, 16), int32(0))
	r.want("a read of a remapped block", last(), Answer{OpRead, WaySpare, 0})
	r.want("read", r.do(OpRead, 1004, 4), int32(0))
	r.want("a read beside it", last(), Answer{OpRead, WayHome, 0})
	r.want("zeroes", r.do(OpWriteZeroes, 1003, 1), int32(0))
	r.want("zeroes in a spare unit", last(), Answer{OpWriteZeroes, WaySpare, 0})

	r.breakHome(2000, syscall.ENODATA)
	r.want("read", r.do(OpRead, 2000, 1), -int32(syscall.ENODATA))
	if a := last(); a.Way != WayHeal || a.Met == 0 {
		t.Errorf("a read of a bad block: %+v", a)
	}
	r.want("read", r.do(OpRead, 5000, uint32(rigBlocks)), -int32(syscall.EINVAL))
	r.want("a request beyond the end", last(), Answer{OpRead, WayNone, 0})
}

// TestAnsweringSeen: a look at the ages of requests, before the first error, counts.
func TestAnsweringSeen(t *testing.T) {
	r := newRig(t, 512, 64)
	w := &wayRig{engineDriver{r}, map[uint16]Answer{}}
	r.e.drv = w
	r.breakHome(1003, syscall.EIO)
	r.clock = 500
	r.e.Submit(&Request{Tag: 9, Op: OpWrite, Block: 1000, Count: 16})
	r.e.LookAtAges()
	r.clock = 1000
	r.run()
	r.want("met", w.answers[9], Answer{OpWrite, WayHeal, 500})
	// The next request of the tag has an age of its own.
	r.breakHome(1005, syscall.EIO)
	r.clock = 2000
	r.e.Submit(&Request{Tag: 9, Op: OpWrite, Block: 1005, Count: 1})
	r.run()
	r.want("met", w.answers[9], Answer{OpWrite, WayHeal, 2000})
}
