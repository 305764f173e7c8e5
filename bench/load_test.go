package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"ublkremap/internal/blockdev"
	"ublkremap/metadata"
	"ublkremap/remap"
)

// metadataDir is where the sets of the benchmarks are. It is a tmpfs, so that the benchmarks
// measure this program and not a disk.
const metadataDir = "/dev/shm"

// source gives a Map to a Committer, as the Arbiter does.
type source struct{ m *remap.Map }

func (s source) Entries(cursor uint64, dst []metadata.Entry) (n int, next uint64, done bool) {
	return s.m.Entries(cursor, dst)
}

// scattered returns a table of units. It uses all spare units that there are, and no two of them
// are consecutive.
func scattered(units []uint64) *remap.Map {
	b := remap.NewBuilder(diskUnits, perUnit)
	for i, u := range units {
		b.Apply(mapped(u, uint32(uint64(i)*3%setSpares)))
	}
	return b.Map()
}

// setSpares is how many spare units the sets have: the 16 M of the largest table
// and a few more. It is not a multiple of 3.
const setSpares = 16<<20 + 4096

// newSet writes a set for a disk of 16 TiB in 512-byte blocks to a sparse file, without a table. It
// opens the set as start does.
func newSet(tb testing.TB) *blockdev.Device {
	tb.Helper()
	dir, err := os.MkdirTemp(metadataDir, "ublk-remap-bench-")
	if err != nil {
		tb.Skip("no tmpfs: ", err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "disk")
	const size = 17 << 40
	plan, err := metadata.Plan(metadata.PlanParams{BackingSize: size, BlockSize: 512, Name: "bench",
		SpareBytes: setSpares * metadata.UnitSize})
	must(tb, err)
	must(tb, os.WriteFile(path, nil, 0o600))
	must(tb, os.Truncate(path, size))
	d, err := blockdev.Open(context.Background(), path, blockdev.Options{})
	if err != nil {
		tb.Skip(err) // no direct I/O on tmpfs before Linux 6.6
	}
	tb.Cleanup(func() { _ = d.Close() })
	must(tb, metadata.Create([]metadata.Device{d}, plan, nil))
	return d
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// committer opens a set, with the Map as its table.
func committer(tb testing.TB, d metadata.Device, m *remap.Map) *metadata.Committer {
	tb.Helper()
	img, err := metadata.Load([]metadata.Device{d})
	must(tb, err)
	c, err := metadata.NewCommitter(img, source{m}, metadata.Options{Session: 1})
	must(tb, err)
	t, err := c.Open(1)
	must(tb, err)
	durable(tb, metadata.RunOps(c, []metadata.Device{d}, nil), t)
	return c
}

// durable checks that a ticket ended with success.
func durable(tb testing.TB, results []metadata.Result, t metadata.Ticket) {
	tb.Helper()
	for _, r := range results {
		if r.Ticket == t && r.Outcome == metadata.OutcomeDurable {
			return
		}
	}
	tb.Fatalf("ticket %d is not durable: %v", t, results)
}

// saved returns a set with the table of a layout and size in its checkpoint.
func saved(tb testing.TB, layout string, remaps int) (d *blockdev.Device, count uint64) {
	tb.Helper()
	m := scattered(tableUnits(layout, remaps))
	d = newSet(tb)
	c := committer(tb, d, m)
	// This is a record after the checkpoint of the empty table. Without it there is nothing new to
	// write.
	_, err := c.Commit([]metadata.Entry{home(0)})
	must(tb, err)
	metadata.RunOps(c, []metadata.Device{d}, nil)
	t, err := c.Checkpoint()
	must(tb, err)
	durable(tb, metadata.RunOps(c, []metadata.Device{d}, nil), t)
	return d, m.Counts().Mapped
}

// loaded is what a process that loaded a set reports about it.
type loaded struct {
	Load, Restore time.Duration // of metadata.Load, and of remap.Restore
	CPU           time.Duration // of all threads, for both
	Mapped        uint64
	Bytes         uint64 // size of the Map, computed from its structure
	Live          uint64 // live bytes of the heap after a collection
	RSS, Peak     uint64 // bytes of the process: at that time, and at most
}

// load does what start does between opening its devices and making the machines.
func load(tb testing.TB, d metadata.Device) (l loaded, r *remap.Restored) {
	tb.Helper()
	cpu := processTime()
	began := time.Now()
	img, err := metadata.Load([]metadata.Device{d})
	must(tb, err)
	l.Load = time.Since(began)
	began = time.Now()
	r, err = remap.Restore(img.Layout(), img.Replay)
	must(tb, err)
	l.Restore = time.Since(began)
	l.CPU = processTime() - cpu
	l.Mapped = r.Map.Counts().Mapped
	return l, r
}

// childEnv names the set that TestLoadChild loads.
const childEnv = "UBLK_REMAP_BENCH_SET"

// TestLoadChild is BenchmarkStart's other process. Its memory contains nothing but what loading a
// set puts there.
func TestLoadChild(t *testing.T) {
	path := os.Getenv(childEnv)
	if path == "" {
		t.Skip("a part of BenchmarkStart")
	}
	d, err := blockdev.Open(context.Background(), path, blockdev.Options{Shared: true,
		ReadOnly: true})
	must(t, err)
	l, r := load(t, d)
	l.Bytes = r.Map.Bytes()
	l.Peak = status(t, "VmHWM:")
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	l.Live, l.RSS = s.HeapAlloc, status(t, "VmRSS:")
	runtime.KeepAlive(r)
	out, err := json.Marshal(l)
	must(t, err)
	fmt.Printf("\n%s%s\n", childEnv, out)
}

// status returns a line of /proc/self/status that is in KiB, converted to bytes.
func status(tb testing.TB, key string) uint64 {
	tb.Helper()
	all, err := os.ReadFile("/proc/self/status")
	must(tb, err)
	for _, line := range bytes.Split(all, []byte("\n")) {
		var kib uint64
		if rest, ok := bytes.CutPrefix(line, []byte(key)); ok {
			_, err := fmt.Sscan(string(rest), &kib)
			must(tb, err)
			return kib << 10
		}
	}
	tb.Fatal("no ", key)
	return 0
}

// BenchmarkStart loads whole tables from a set on tmpfs, each time in a process of its own. That is
// what start must do before it can serve, except for opening devices. It reports how much memory
// that takes.
func BenchmarkStart(b *testing.B) {
	for _, size := range sizes[2:] {
		for _, layout := range layouts {
			b.Run(fmt.Sprintf("remaps=%s/%s", size.name, layout), func(b *testing.B) {
				current = table{}
				d, count := saved(b, layout, size.remaps)
				path := d.Path()
				must(b, d.Close()) // releases its lock
				runtime.GC()
				var sum loaded
				n := 0
				for b.Loop() {
					cmd := exec.Command(os.Args[0], "-test.run", "^TestLoadChild$")
					cmd.Env = append(os.Environ(), childEnv+"="+path)
					out, err := cmd.CombinedOutput()
					_, text, ok := bytes.Cut(out, []byte(childEnv))
					if err != nil || !ok {
						b.Fatalf("%v: %s", err, out)
					}
					var l loaded
					must(b, json.NewDecoder(bytes.NewReader(text)).Decode(&l))
					if l.Mapped != count {
						b.Fatalf("%d remaps, want %d", l.Mapped, count)
					}
					sum.Load, sum.Restore, sum.CPU = sum.Load+l.Load, sum.Restore+l.Restore,
						sum.CPU+l.CPU
					sum.Bytes, sum.Live, sum.RSS, sum.Peak = l.Bytes, l.Live, l.RSS,
						max(sum.Peak, l.Peak)
					n++
				}
				b.ReportMetric(0, "ns/op") // the start of a process is not measured
				b.ReportMetric(sum.Load.Seconds()*1e3/float64(n), "load-ms")
				b.ReportMetric(sum.Restore.Seconds()*1e3/float64(n), "restore-ms")
				b.ReportMetric((sum.Load+sum.Restore).Seconds()*1e3/float64(n), "start-ms")
				b.ReportMetric(sum.CPU.Seconds()*1e3/float64(n), "start-cpu-ms")
				b.ReportMetric(float64(sum.Bytes)/1e6, "map-MB")
				b.ReportMetric(float64(sum.Live)/1e6, "heap-MB")
				b.ReportMetric(float64(sum.RSS)/1e6, "rss-MB")
				b.ReportMetric(float64(sum.Peak)/1e6, "peak-rss-MB")
			})
		}
	}
}
