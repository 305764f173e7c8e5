package uring

import (
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func newRing(t testing.TB, kind Kind, n int) *Ring {
	t.Helper()
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	r, err := New(kind, n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func wait(t testing.TB, r *Ring) CQE {
	t.Helper()
	var out [1]CQE
	for range 1000 {
		if r.Reap(out[:]) == 1 {
			return out[0]
		}
		if err := r.SubmitAndWait(10 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("no completion")
	return CQE{}
}

// Entries must be zero whatever their slot held before: a read after a data sync is refused
// otherwise.
func TestEntriesAreZeroed(t *testing.T) {
	for _, kind := range []Kind{QueueRing, CommandRing} {
		r := newRing(t, kind, 4)
		for i := range 40 {
			s := r.SQE()
			if s == nil {
				t.Fatal("full")
			}
			if *s != (SQE{}) {
				t.Fatalf("kind %d, round %d: entry is %+v", kind, i, *s)
			}
			size := 64
			if kind == CommandRing {
				size = 128
			}
			raw := unsafe.Slice((*byte)(unsafe.Pointer(s)), size)
			for j, b := range raw {
				if b != 0 {
					t.Fatalf("kind %d, round %d: byte %d is %#x", kind, i, j, b)
				}
			}
			for j := range raw {
				raw[j] = 0xff
			}
			// Only an all-ones entry goes to the kernel: it must be refused, not taken.
			if err := r.SubmitAndWait(NoLimit); err != nil {
				t.Fatal(err)
			}
			if c := wait(t, r); c.Res >= 0 {
				t.Fatalf("the kernel took a nonsense entry: %+v", c)
			}
		}
	}
}

func TestReadWriteFiles(t *testing.T) {
	for _, registered := range []bool{false, true} {
		r := newRing(t, QueueRing, 8)
		if registered {
			if err := r.RegisterRing(); err != nil {
				t.Fatal(err)
			}
		}
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := r.RegisterFiles(4); err != nil {
			t.Fatal(err)
		}
		if err := r.SetFile(3, int(f.Fd())); err != nil {
			t.Fatal(err)
		}
		mem, err := Mmap(8192)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Munmap(mem) }()
		copy(mem, "written by the ring")
		addr := uint64(uintptr(unsafe.Pointer(&mem[0])))

		step := func(what string, want int32, prep func(s *SQE)) {
			t.Helper()
			s := r.SQE()
			prep(s)
			s.UserData = 42
			if c := wait(t, r); c.Res != want || c.UserData != 42 {
				t.Fatalf("%s: %+v, want %d", what, c, want)
			}
		}
		step("write", 19, func(s *SQE) { Write(s, 3, addr, 19, 4096, DataSync) })
		step("fdatasync", 0, func(s *SQE) { Fdatasync(s, 3) })
		step("read", 19, func(s *SQE) { Read(s, 3, addr+4096, 19, 4096) })
		if got := string(mem[4096:][:19]); got != "written by the ring" {
			t.Fatalf("read back %q", got)
		}
		step("punch", 0, func(s *SQE) {
			Fallocate(s, 3,
				unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4096, 19)
		})
		step("read of a hole", 19, func(s *SQE) { Read(s, 3, addr+4096, 19, 4096) })
		if mem[4096] != 0 {
			t.Fatal("the hole is not empty")
		}
		step("empty slot", -int32(syscall.EBADF), func(s *SQE) { Read(s, 2, addr, 1, 0) })
		if err := r.SetFile(3, -1); err != nil {
			t.Fatal(err)
		}
		step("emptied slot", -int32(syscall.EBADF), func(s *SQE) { Read(s, 3, addr, 1, 0) })
		if err := r.RegisterFiles(1); err == nil {
			t.Fatal("a second table of files was accepted")
		}
		if err := r.RegisterSparseBuffers(16); err != nil {
			t.Fatal(err)
		}
		if err := r.SetFile(3, int(f.Fd())); err != nil {
			t.Fatal(err)
		}
		step("empty buffer", -int32(syscall.EFAULT), func(s *SQE) { ReadFixed(s, 3, 5, 0, 512, 0) })
	}
}

func TestWaitHasALimit(t *testing.T) {
	r := newRing(t, QueueRing, 4)
	start := time.Now()
	if err := r.SubmitAndWait(30 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	// A limit that never fired would hang here; one that fired at once would make the loop busy.
	if d := time.Since(start); d < 25*time.Millisecond {
		t.Fatalf("came back after %v", d)
	}
	if err := r.SubmitAndWait(0); err != nil {
		t.Fatal(err)
	}
}

// More completions than the ring has room for must all arrive.
func TestCompletionOverflow(t *testing.T) {
	r := newRing(t, QueueRing, 4)
	const n = 100
	next := 0
	for i := range n {
		s := r.SQE()
		if s == nil {
			if err := r.Submit(); err != nil {
				t.Fatal(err)
			}
			if s = r.SQE(); s == nil {
				t.Fatal("no room after a submission")
			}
		}
		Nop(s)
		s.UserData = uint64(i)
	}
	for next < n {
		if c := wait(t, r); c.UserData != uint64(next) {
			t.Fatalf("completion %d came as number %d", c.UserData, next)
		}
		next++
	}
	if r.Pending() != 0 || r.Space() != r.Entries() {
		t.Fatalf("pending %d, space %d", r.Pending(), r.Space())
	}
}

func TestAnotherThreadIsRefused(t *testing.T) {
	r := newRing(t, QueueRing, 4)
	// Binds the ring to this thread.
	if err := r.SubmitAndWait(0); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		Nop(r.SQE())
		done <- r.Submit()
	}()
	if err := <-done; err == nil {
		t.Fatal("a second thread may enter a ring of a single issuer")
	}
	if c := wait(t, r); c.Res != 0 {
		t.Fatal(c)
	}
}

// Rings must give back descriptors and mappings.
func TestCloseLeavesNothing(t *testing.T) {
	count := func() (fds, maps int) {
		t.Helper()
		d, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		m, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range m {
			if b == '\n' {
				maps++
			}
		}
		return len(d), maps
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	once := func() {
		for _, kind := range []Kind{QueueRing, CommandRing} {
			r, err := New(kind, 32)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.RegisterRing(); err != nil {
				t.Fatal(err)
			}
			if r.registered != 0 {
				t.Fatalf("registered as %d: an earlier ring was not given back", r.registered)
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	once()
	fds, maps := count()
	for range 50 {
		once()
	}
	if f, m := count(); f > fds || m > maps+10 {
		t.Fatalf("descriptors %d then %d, mappings %d then %d", fds, f, maps, m)
	}
}

// A ring that polls sees a completion that comes from elsewhere without entering the
// kernel; what it sees is there at the next look into it.
func TestReadyTellsOfDeferredWork(t *testing.T) {
	r := newRing(t, PolledQueueRing, 8)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	memory, err := Mmap(os.Getpagesize())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(memory) }()
	s := r.SQE()
	ReadFD(s, pipe[0], uint64(uintptr(unsafe.Pointer(unsafe.SliceData(memory)))), 1)
	s.UserData = 7
	if err := r.SubmitAndWait(0); err != nil {
		t.Fatal(err)
	}
	if r.Ready() {
		t.Fatal("ready before anything was written")
	}
	if _, err := unix.Write(pipe[1], []byte{1}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); !r.Ready(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not ready in a minute")
		}
	}
	if err := r.SubmitAndWait(0); err != nil {
		t.Fatal(err)
	}
	var out [2]CQE
	if n := r.Reap(out[:]); n != 1 || out[0].UserData != 7 || out[0].Res != 1 {
		t.Fatalf("%d completions: %+v", n, out)
	}
}

func TestBadSizes(t *testing.T) {
	for _, n := range []int{-1, 0, MaxEntries + 1} {
		if _, err := New(QueueRing, n); err == nil {
			t.Errorf("%d entries were accepted", n)
		}
	}
	if _, err := New(CommandRing, 64); err == nil {
		t.Error("a command ring that giouring would leak was accepted")
	}
}

func BenchmarkNop(b *testing.B) {
	r := newRing(b, QueueRing, 64)
	if err := r.RegisterRing(); err != nil {
		b.Fatal(err)
	}
	var out [32]CQE
	b.ReportAllocs()
	for i := 0; i < b.N; i += len(out) {
		for range out {
			Nop(r.SQE())
		}
		if err := r.SubmitAndWait(NoLimit); err != nil {
			b.Fatal(err)
		}
		for n := 0; n < len(out); {
			n += r.Reap(out[:])
		}
	}
}
