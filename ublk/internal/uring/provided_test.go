package uring

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/pawelgaczynski/giouring"
	"golang.org/x/sys/unix"
)

// readMultishot is IORING_OP_READ_MULTISHOT, Linux 6.7.
const readMultishot = 49

func (p *Provided) read(s *SQE, f *os.File) {
	s.OpCode = readMultishot
	s.Flags = giouring.SqeBufferSelect
	s.Fd = int32(f.Fd())
	s.BufIG = p.group
	s.UserData = 1
}

// needProvided skips on kernels before 6.12.
func needProvided(t *testing.T) {
	t.Helper()
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if n, err := fmt.Sscanf(unix.ByteSliceToString(uts.Release[:]), "%d.%d", &major,
		&minor); n != 2 {
		t.Fatal(err)
	}
	if major < 6 || major == 6 && minor < 12 {
		t.Skip("provided buffers that are used up piece by piece need Linux 6.12")
	}
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// What goes into a pipe comes out of the buffers, in pieces of any length, around the two
// buffers many times.
func TestProvidedBuffers(t *testing.T) {
	needProvided(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	ring := newRing(t, QueueRing, 4)
	const size = 100
	p, err := ring.NewProvided(3, size)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Withdraw(); err != nil {
			t.Error(err)
		}
		if err := p.Free(); err != nil {
			t.Error(err)
		}
	}()
	from, to := pipe(t)
	p.read(ring.SQE(), from)
	rearmed := 0
	for round := range 300 {
		var want, got []byte
		for range 1 + rnd.IntN(6) {
			piece := make([]byte, 1+rnd.IntN(size))
			for i := range piece {
				piece[i] = byte(rnd.Uint32())
			}
			if _, err := to.Write(piece); err != nil {
				t.Fatal(err)
			}
			want = append(want, piece...)
		}
		for len(got) < len(want) {
			c := wait(t, ring)
			if c.Res == -int32(unix.ENOBUFS) {
				// Both were full before one was given back.
				if c.More() {
					t.Fatalf("round %d: no buffers, and yet more: %+v", round, c)
				}
				rearmed++
				if err := p.Reset(); err != nil {
					t.Fatal(err)
				}
				p.read(ring.SQE(), from)
				continue
			}
			b, err := p.Take(&c)
			if err != nil || len(b) == 0 || !c.More() {
				t.Fatalf("round %d: %d bytes, %v, %+v", round, len(b), err, c)
			}
			got = append(got, b...)
			p.Release(&c)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("round %d: wrong data", round)
		}
	}
	t.Logf("ran out %d times", rearmed)
	// Without buffers the read ends as soon as there is something to read.
	if err := p.Reset(); err != nil {
		t.Fatal(err)
	}
	if err := p.Withdraw(); err != nil {
		t.Fatal(err)
	}
	if _, err := to.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if c := wait(t, ring); c.Res != -int32(unix.ENOBUFS) || c.More() {
		t.Errorf("without buffers: %+v", c)
	}
	if err := p.register(); err != nil {
		t.Fatal(err)
	}
}

// Impossible completions are errors, and give no other memory.
func TestProvidedBuffersAreChecked(t *testing.T) {
	needProvided(t)
	ring := newRing(t, QueueRing, 4)
	p, err := ring.NewProvided(0, 64)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Free()
	for _, c := range []CQE{
		{Res: 2, Flags: cqeMore},                                       // no buffer
		{Res: 2, Flags: cqeMore | cqeBuffer | 2<<cqeBufferShift},       // no such buffer
		{Res: -5, Flags: cqeMore | cqeBuffer},                          // an error
		{Res: 65, Flags: cqeMore | cqeBuffer},                          // more than it holds
		{Res: 1 << 30, Flags: cqeMore | cqeBuffer | 1<<cqeBufferShift}, // far more
	} {
		if b, err := p.Take(&c); err == nil {
			t.Errorf("%+v gave %d bytes", c, len(b))
		}
	}
	if b, err := p.Take(&CQE{Res: 60, Flags: cqeBuffer}); err != nil || len(b) != 60 {
		t.Errorf("%d, %v", len(b), err)
	}
	if b, err := p.Take(&CQE{Res: 5, Flags: cqeBuffer}); err == nil {
		t.Errorf("more than was left gave %d bytes", len(b))
	}
	for _, size := range []int{0, -1, maxProvidedBufBytes + 1} {
		if _, err := ring.NewProvided(1, size); err == nil {
			t.Errorf("buffers of %d bytes", size)
		}
	}
}

// Each piece of memory lies far from everything else, and at another address.
func TestMemoryIsLonely(t *testing.T) {
	seen := map[uint64]bool{}
	for range 20 {
		b, err := Mmap(3 << 12)
		if err != nil {
			t.Fatal(err)
		}
		at := addressOf(b)
		if at < lonelyFirst || at >= lonelyPast || at%lonelyAlign != 0 || seen[at] {
			t.Errorf("memory at %#x", at)
		}
		seen[at] = true
		for i := range b {
			if b[i] != 0 {
				t.Fatal("not zeroed")
			}
			b[i] = 1
		}
		if err := Munmap(b, nil); err != nil {
			t.Error(err)
		}
	}
	if _, err := Mmap(1 << 62); err == nil {
		t.Error("more than there is")
	}
}
