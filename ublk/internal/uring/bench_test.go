package uring

import (
	"fmt"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// BenchmarkRead reads with direct I/O, 32 at a time, from the file or device named by
// $UBLK_REMAP_BENCH_FILE, into memory of small or huge pages that is or is not registered:
// what a queue does for each request besides its commands.
func BenchmarkRead(b *testing.B) {
	path := os.Getenv("UBLK_REMAP_BENCH_FILE")
	if path == "" {
		b.Skip("needs UBLK_REMAP_BENCH_FILE, a file or device of 64 MiB or more that can be read " +
			"directly")
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	const (
		depth  = 32
		stride = 512 << 10
		area   = 64 << 20
	)
	for _, size := range []int{4 << 10, 128 << 10} {
		for _, huge := range []bool{false, true} {
			for _, registered := range []bool{false, true} {
				b.Run(fmt.Sprintf("size=%d/huge=%v/registered=%v", size, huge, registered),
					func(b *testing.B) {
						r := newRing(b, QueueRing, 2*depth)
						memory, err := Mmap(depth * stride)
						if err != nil {
							b.Fatal(err)
						}
						defer func() { _ = unix.Munmap(memory) }()
						advice := unix.MADV_NOHUGEPAGE
						if huge {
							advice = unix.MADV_HUGEPAGE
						}
						if err := unix.Madvise(memory, advice); err != nil {
							b.Fatal(err)
						}
						for i := 0; i < len(memory); i += 4096 {
							memory[i] = 1
						}
						if err := r.RegisterFiles(1); err != nil {
							b.Fatal(err)
						}
						if err := r.SetFile(0, int(f.Fd())); err != nil {
							b.Fatal(err)
						}
						if registered {
							if err := r.RegisterBuffers(memory, stride, size); err != nil {
								b.Fatal(err)
							}
						}
						var (
							cqes   [64]CQE
							random = uint64(1)
						)
						read := func(tag uint64) {
							random = random*6364136223846793005 + 1442695040888963407
							off := random >> 20 % (area / uint64(size)) * uint64(size)
							addr := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(memory)))) +
								tag*stride
							s := r.SQE()
							if registered {
								ReadFixed(s, 0, uint16(tag), addr, uint32(size), off)
							} else {
								Read(s, 0, addr, uint32(size), off)
							}
							s.UserData = tag
						}
						b.SetBytes(int64(size))
						b.ResetTimer()
						before := threadTime(b)
						for tag := range uint64(depth) {
							read(tag)
						}
						for done := 0; done < b.N; {
							if err := r.SubmitAndWait(NoLimit); err != nil {
								b.Fatal(err)
							}
							for _, c := range cqes[:r.Reap(cqes[:])] {
								if int(c.Res) != size {
									b.Fatalf("result %d", c.Res)
								}
								done++
								read(c.UserData)
							}
						}
						b.StopTimer()
						b.ReportMetric(float64(threadTime(b)-before)/float64(b.N), "cpu-ns/op")
						// The ring is closed with the rest under way; the memory must outlive them.
						for left := depth; left > 0; left -= r.Reap(cqes[:]) {
							if err := r.SubmitAndWait(NoLimit); err != nil {
								b.Fatal(err)
							}
						}
					})
			}
		}
	}
}

// threadTime is the CPU time that this thread has had, in nanoseconds.
func threadTime(b *testing.B) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		b.Fatal(err)
	}
	return ts.Nano()
}
