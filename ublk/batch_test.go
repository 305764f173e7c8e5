package ublk

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ublkremap/ublk/internal/uapi"
	"ublkremap/ublk/internal/uring"
)

// newBatch is the exchange of a queue without a driver. Its commands are put into q.discard, one at
// a time, as those of every queue that has failed.
func newBatch(t *testing.T, depth int, zeroCopy bool) *batchCommands {
	t.Helper()
	if v, err := RunningKernel(); err != nil || !v.AtLeast(KernelVersion{6, 12, 0}) {
		t.Skipf("provided buffers of this kind need Linux 6.12 (%v)", err)
	}
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	ring, err := uring.New(uring.QueueRing, 8)
	if err != nil {
		t.Fatal(err)
	}
	q := &Queue{
		dev: newDevice(nil, DeviceInfo{}), depth: depth, maxIO: pageSize, zeroCopy: zeroCopy,
		tags: make([]tagState, depth),
		ring: ring, failure: errBroken,
	}
	if !zeroCopy {
		if q.bufs, err = uring.Mmap(depth * pageSize); err != nil {
			t.Fatal(err)
		}
	}
	x := &batchCommands{q: q}
	q.exchange = x
	if err := x.setup(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(x.end(), ring.Close(), x.release(),
			uring.Munmap(q.bufs)); err != nil {
			t.Error(err)
		}
	})
	return x
}

var errBroken = errors.New("broken on purpose")

// sent is a command as the kernel sees it.
type sent struct {
	head     uapi.BatchIO
	elements []byte // where they are
	copy     []byte // what they were
}

// takeSent returns the command that was queued last, if there is a new one.
func (x *batchCommands) takeSent(kind uint64) *sent {
	s := x.q.discard
	if s.UserData != kind {
		return nil
	}
	x.q.discard = uring.SQE{}
	c := &sent{head: *(*uapi.BatchIO)(unsafe.Pointer(&s.Addr3))}
	offset := int(s.Addr - uint64(uintptr(unsafe.Pointer(unsafe.SliceData(x.memory)))))
	c.elements = x.memory[offset : offset+int(c.head.NrElem)*int(c.head.ElemBytes)]
	c.copy = bytes.Clone(c.elements)
	return c
}

type answer struct {
	tag uint16
	res int32
}

// check decodes the first n elements.
func (c *sent) check(x *batchCommands, n int) (answers []answer, err error) {
	if !bytes.Equal(c.elements, c.copy) {
		return nil, errors.New("the elements changed while the kernel had them")
	}
	wantFlags, wantBytes := uapi.BatchHasBufAddr, 16
	if x.q.zeroCopy {
		wantFlags, wantBytes = uapi.BatchAutoBufFallback, 8
	}
	if c.head.Flags != wantFlags || int(c.head.ElemBytes) != wantBytes ||
		int(c.head.QID) != x.q.id {
		return nil, fmt.Errorf("command %+v", c.head)
	}
	for i := range n {
		e := c.elements[i*wantBytes:]
		h := *(*uapi.ElemHeader)(unsafe.Pointer(&e[0]))
		if h.BufIndex != h.Tag {
			return nil, fmt.Errorf("tag %d has buffer %d", h.Tag, h.BufIndex)
		}
		if !x.q.zeroCopy {
			if at := *(*uint64)(unsafe.Pointer(&e[8])); at != x.q.bufAddr(h.Tag) {
				return nil, fmt.Errorf("tag %d has its buffer at %#x", h.Tag, at)
			}
		}
		answers = append(answers, answer{h.Tag, h.Result})
	}
	return answers, nil
}

// The kernel gets each answer once and in order, whenever it takes answers and however many at a
// time. The memory of the answers does not change before the kernel has completed the command.
func TestBatchedAnswers(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for _, depth := range []int{2, 3, 16, 128} {
		for _, zeroCopy := range []bool{false, true} {
			t.Run(fmt.Sprintf("depth %d zero copy %v", depth, zeroCopy), func(t *testing.T) {
				x := newBatch(t, depth, zeroCopy)
				x.q.id = 5
				x.begin()
				// begin queues two commands, of which FETCH is the last. PREP shows by its effects.
				if x.q.discard.UserData != kindFetch || !x.armed || x.q.alive != depth ||
					!x.underWay {
					t.Fatalf("begin: %+v", x)
				}
				x.completed(&uring.CQE{UserData: kindPrepare})
				if x.underWay {
					t.Fatal("PREP is not over")
				}
				var (
					here     = rnd.Perm(depth) // tags that the server has
					want     []answer          // given, not taken yet
					underWay *sent
				)
				for range 5000 {
					switch rnd.IntN(3) {
					case 0:
						for range rnd.IntN(len(here) + 1) {
							a := answer{uint16(here[0]), int32(rnd.Uint32())}
							here = here[1:]
							x.answer(a.tag, a.res)
							want = append(want, a)
						}
					case 1:
						x.flush()
						if c := x.takeSent(kindCommit); c != nil {
							if underWay != nil {
								t.Fatal("two at once")
							}
							underWay = c
						}
					case 2:
						if underWay == nil {
							continue
						}
						n := 1 + rnd.IntN(int(underWay.head.NrElem))
						got, err := underWay.check(x, n)
						if err != nil {
							t.Fatal(err)
						}
						for i, a := range got {
							if a != want[i] {
								t.Fatalf("answer %+v, want %+v", a, want[i])
							}
							here = append(here, int(a.tag))
						}
						want = want[n:]
						x.completed(&uring.CQE{UserData: kindCommit,
							Res: int32(n) * int32(underWay.head.ElemBytes)})
						rest := int(underWay.head.NrElem) - n
						underWay = x.takeSent(kindCommit)
						if (underWay != nil) != (rest > 0) || rest > 0 &&
							int(underWay.head.NrElem) != rest {
							t.Fatalf("%d elements are left; next command %+v", rest, underWay)
						}
					}
					if kept := x.kept(); kept != (len(want) > 0 &&
						(underWay == nil || len(want) > int(underWay.head.NrElem))) {
						t.Fatalf("answers are kept: %v; %d given, under way %+v", kept, len(want),
							underWay)
					}
				}
				if x.q.failure != errBroken {
					t.Fatal(x.q.failure)
				}
			})
		}
	}
}

// An answer that the kernel must not give ends the queue.
func TestBatchRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		cqe  uring.CQE
		want error
	}{
		"preparation": {uring.CQE{UserData: kindPrepare, Res: -int32(unix.EINVAL)}, unix.EINVAL},
		"first":       {uring.CQE{UserData: kindCommit, Res: -int32(unix.EBUSY)}, unix.EBUSY},
		"none":        {uring.CQE{UserData: kindCommit}, nil},
		"too many":    {uring.CQE{UserData: kindCommit, Res: 3 * 16}, nil},
		"fetch":       {uring.CQE{UserData: kindFetch, Res: -int32(unix.ENOMEM)}, unix.ENOMEM},
		"fetch over":  {uring.CQE{UserData: kindFetch}, nil},
		"no buffer":   {uring.CQE{UserData: kindFetch, Res: 2, Flags: 1 << 1}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			x := newBatch(t, 4, false)
			x.answer(1, 0)
			x.answer(2, 0)
			x.flush()
			x.q.failure = nil
			x.completed(&c.cqe)
			if x.q.failure == nil || c.want != nil && !errors.Is(x.q.failure, c.want) {
				t.Errorf("failure: %v", x.q.failure)
			}
			t.Log(x.q.failure)
		})
	}
}

// Tags that cannot have come are refused before anything is done for them.
func TestBatchOfImpossibleTags(t *testing.T) {
	x := newBatch(t, 4, false)
	hand := func(tag uint16) error {
		buffer := func(n int32) *uring.CQE {
			return &uring.CQE{UserData: kindFetch, Res: n,
				Flags: 1<<1 | 1 | 1<<4}
		}
		if err := x.tags.Reset(); err != nil {
			t.Fatal(err)
		}
		b, err := x.tags.Take(buffer(2))
		if err != nil {
			t.Fatal(err)
		}
		*(*uint16)(unsafe.Pointer(&b[0])) = tag
		if err := x.tags.Reset(); err != nil {
			t.Fatal(err)
		}
		x.q.failure = nil
		x.completed(buffer(2))
		return x.q.failure
	}
	if err := hand(4); err == nil {
		t.Error("a tag beyond the depth")
	}
	x.q.tags[2].owned = true
	if err := hand(2); err == nil {
		t.Error("a tag that the server has")
	}
}

func TestKnownBadBatchIO(t *testing.T) {
	for release, bad := range map[string]bool{
		"6.12.107": false, "6.19.9": false, "7.0": true, "7.3.4+deb13-cloud-amd64": true,
		"7.4": false, "8.0": false,
	} {
		v, err := ParseKernelVersion(release)
		if err != nil {
			t.Fatal(err)
		}
		if b, known := KnownBadBatchIO(v); known != bad || b.Problem == "" || b.Advice == "" {
			t.Errorf("%s: %+v, %v", release, b, known)
		}
	}
}
