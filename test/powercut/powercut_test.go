package powercut

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/metadata"
	"ublkremap/test/logwrites"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

const (
	diskSize  = 64 << 20
	spareSize = 16 << 20
	unit      = 4096
)

// layout is a combination of what a run is done on.
type layout struct {
	fs          string
	blockSize   int64
	spareDevice bool
	batch       bool // batch I/O, where the kernel has it
}

func (s layout) String() string {
	where := "one-disk"
	if s.spareDevice {
		where = "spare-device"
	}
	if s.batch {
		where += "-batch"
	}
	return fmt.Sprintf("%s/%d/%s", s.fs, s.blockSize, where)
}

// flags are those of start.
func (s layout) flags() []string {
	if s.batch && !vmtest.KernelVersion().Less(vmtest.V(7, 0)) {
		return []string{"--queues", "2", "--batch-io=on"}
	}
	return []string{"--queues", "2", "--batch-io=off"}
}

// CutsEnv names the environment variable with the number of cuts of each
// combination (make powercut CUTS=500).
const CutsEnv = "UBLK_REMAP_CUTS"

// cuts is how many cuts each combination gets, and ops what its writers do.
func (s layout) cuts(t testing.TB) (cuts, ops int) {
	t.Helper()
	if v := os.Getenv(CutsEnv); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			t.Fatalf("%s=%q", CutsEnv, v)
		}
		return n, 150
	}
	if vmtest.Full() {
		return 40, 150
	}
	if s.spareDevice {
		return 3, 30 // its many stops take time
	}
	return 4, 40
}

// TestPowerCut cuts the power: see the package's comment.
func TestPowerCut(t *testing.T) {
	vmtest.NeedUblk(t)
	vmtest.NeedTools(t, "dmsetup", "mkfs.ext4", "mkfs.xfs", "e2fsck", "xfs_repair")
	layouts := []layout{{"ext4", 512, false, false}, {"xfs", 4096, true, true}}
	if vmtest.Full() || os.Getenv(CutsEnv) != "" {
		layouts = append(layouts, layout{"xfs", 512, false, true},
			layout{"ext4", 4096, true, false}, layout{"ext4", 4096, false, true},
			layout{"xfs", 512, true, false})
	}
	for _, sc := range layouts {
		t.Run(sc.String(), func(t *testing.T) { testPowerCut(t, sc) })
	}
}

// recording is what was recorded: images from before, logs of what was written, and
// what the writers were told.
type recording struct {
	layout
	rng     *rand.Rand
	set     *rig.Set
	disks   []*disk  // without devices of their own any more: where they are bad
	images  []string // what each disk held when its log began
	logs    []*logwrites.Log
	objects []*object
	syncs   []int64 // marks at which all disks were suspended
	last    int64   // the last mark
	dir     string
}

func testPowerCut(t *testing.T, sc layout) {
	count, ops := sc.cuts(t)
	rig.Guard(t, 5*time.Minute+time.Duration(count)*20*time.Second)
	f := record(t, sc, ops)
	began := time.Now()
	points := f.choose(t, count)
	if !sc.spareDevice {
		t.Run("ignoredFlushes", f.ignoredFlushes) // before the players change the images
	}
	players := f.play(t)
	total := &findings{}
	kinds := map[cutKind]int{}
	for n, p := range points {
		t.Run(fmt.Sprintf("%d-%s", n, p.kind), func(t *testing.T) {
			t.Logf("cut %s", p.describe(f))
			scratch := f.replayCut(t, players, p, nil)
			found := f.look(t, scratch, p.acked)
			for _, err := range found.errs {
				t.Error(err)
			}
			total.files += found.files
			total.bytes += found.bytes
			total.pending += found.pending
			kinds[p.kind]++
		})
	}
	t.Logf("%d cuts %v in %v: %d acknowledged files looked at, %d bytes compared, %d operations "+
		"on their way seen",
		len(points), kinds, time.Since(began).Round(time.Millisecond), total.files, total.bytes,
		total.pending)
	if total.files == 0 {
		t.Error("nothing was acknowledged before any cut: the test shows nothing")
	}
}

// record makes a set with a file system on disks that are bad in many places,
// and logs what a few writers make of it.
func record(t *testing.T, sc layout, ops int) *recording {
	f := &recording{layout: sc, rng: rig.Random(t), dir: t.TempDir()}
	began := time.Now()
	sizes := []int64{diskSize}
	if sc.spareDevice {
		sizes = append(sizes, spareSize)
	}
	var files []string
	for i, size := range sizes {
		file := filepath.Join(f.dir, fmt.Sprintf("disk%d", i))
		if err := makeSparse(file, size+stampRoom); err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	bad := f.prepare(t, files, sizes)
	for i, file := range files {
		f.images = append(f.images, filepath.Join(f.dir, fmt.Sprintf("before%d", i)))
		copySparse(t, file, f.images[i])
	}
	prepared := time.Since(began)

	for i, file := range files {
		d := newDisk(t, file, sizes[i], sc.blockSize, bad[i],
			filepath.Join(f.dir, fmt.Sprintf("log%d", i)))
		f.disks = append(f.disks, d)
	}
	f.place(f.disks)
	f.set.Start(t, f.flags()...)
	root := vmtest.Mount(t, sc.fs, f.set.Dev)
	f.write(t, root, ops)
	vmtest.Unmount(t, root)
	st := f.set.Status(t)
	f.set.Stop(t)
	f.set.Check(t)
	for _, d := range f.disks {
		f.logs = append(f.logs, d.readLog(t))
	}
	t.Logf("recorded in %v (%v before): %d marks, %d heals of writes, %d remaps, metadata at %d, "+
		"log %d of %d bytes used",
		(time.Since(began) - prepared).Round(time.Millisecond), prepared.Round(time.Millisecond),
		f.last, st.Heals.Writes, st.Remaps, st.Metadata.Sequence, st.Metadata.LogUsed,
		st.Metadata.LogSize)
	for i, l := range f.logs {
		t.Logf("log %d: %s", i, summary(l))
	}
	if st.Heals.Writes < 10 || st.Breaker.State != "closed" || st.Lost != 0 ||
		st.Heals.Failed != 0 {
		t.Errorf("status at the end: %+v", st)
	}
	return f
}

func (f *recording) place(disks []*disk) {
	f.set.Path = disks[0].path
	f.set.Spares = nil
	if len(disks) > 1 {
		f.set.Spares = []string{disks[1].path}
	}
}

// prepare creates the set and the file system. It returns where each disk is bad
// from now on. A part of it is bad already when the file system is made, so that the
// file system's own structures live in the spare region.
func (f *recording) prepare(t *testing.T, files []string, sizes []int64) [][]rig.Extent {
	t.Helper()
	var bad [][]rig.Extent
	t.Run("prepare", func(t *testing.T) {
		var disks []*disk
		for i, file := range files {
			disks = append(disks, newDisk(t, file, sizes[i], f.blockSize, nil, ""))
		}
		args := []string{"--spare", "8MiB"}
		spare := ""
		if f.spareDevice {
			spare, args = disks[1].path, nil
		}
		f.set = rig.Create(t, disks[0].path, spare, args...)
		lay := rig.LayoutOf(t, disks[0].path)
		bad = make([][]rig.Extent, len(disks))
		goBad := func(exported rig.Extent) {
			for _, p := range lay.Homes(exported) {
				bad[p.Device] = append(bad[p.Device], p.Extent)
			}
		}
		// Anywhere: written once before mkfs, they are remapped from then on.
		early := f.scatter(rig.Extent{Length: lay.Exported}, 1<<20)
		for _, e := range early {
			goBad(e)
		}
		for dev, d := range disks {
			for _, r := range lay.Of(metadata.RegionSpare, dev) {
				bad[dev] = append(bad[dev], f.scatter(r, 512<<10)...)
			}
			// In the logs, not too many: never at the same place in two.
			for i, log := range lay.Logs(dev) {
				for n := int64(3 + i + 5*dev); (n+1)*lay.Atom <= log.Length; n += 11 {
					bad[dev] = append(bad[dev], rig.At(log.Start+n*lay.Atom, f.blockSize))
				}
			}
			d.setBad(t, bad[dev])
		}
		f.set.Start(t, f.flags()...)
		dev := rig.Open(t, f.set.Dev)
		zero := rig.Aligned(64 << 10)
		for _, e := range early {
			from, to := e.Start/unit*unit, (e.End()+unit-1)/unit*unit
			if err := dev.Write(zero[:min(to, lay.Exported)-from], from); err != nil {
				t.Fatalf("write over a bad extent, %s: %v", e, err)
			}
		}
		dev.Close()
		var options []string
		if f.fs == "ext4" {
			options = []string{"-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"}
		}
		rig.Mkfs(t, f.fs, f.set.Dev, options...)
		root := vmtest.Mount(t, f.fs, f.set.Dev)
		// What the file system has not used yet goes bad now: it is not read before it is written.
		free := freeSpace(t, filepath.Join(root, "free"))
		vmtest.Unmount(t, root)
		for _, e := range free {
			for _, b := range f.scatter(e, 10<<10) {
				// xfs_repair wants to read the beginning of each allocation group, a
				// quarter of the disk, in one go.
				if b.Start%(diskSize/4) >= 1<<20 {
					goBad(b)
				}
			}
		}
		f.set.Stop(t)
		f.set.Check(t)
	})
	if t.Failed() {
		t.FailNow()
	}
	return bad
}

// scatter chooses places of a block to 4 KiB or two blocks, within the extent,
// one in each stretch of about every bytes.
func (f *recording) scatter(in rig.Extent, every int64) []rig.Extent {
	bs := f.blockSize
	var out []rig.Extent
	for at := in.Start + f.rng.Int64N(every)/bs*bs; ; at += (every/2 +
		f.rng.Int64N(every)) / bs * bs {
		n := bs * (1 + f.rng.Int64N(max(unit/bs, 2)))
		if at+n > in.End() {
			return out
		}
		out = append(out, rig.Extent{Start: at, Length: n})
	}
}

// freeSpace finds places that the file system does not use: those of a large
// file that is allocated, never written, and removed.
func freeSpace(t testing.TB, path string) []rig.Extent {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		t.Fatal(err)
	}
	// As much as there is, but for what the file system keeps for itself.
	size := int64(fs.Bfree) * fs.Bsize
	err = unix.ENOSPC
	for left := int64(100); err == unix.ENOSPC && left > 50; left-- {
		size = int64(fs.Bfree) * left / 100 * fs.Bsize
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	}
	if err = errors.Join(err, f.Sync()); err != nil {
		t.Fatal(err)
	}
	out := rig.Extents(t, f, size)
	n := int64(0)
	for _, e := range out {
		n += e.Length
	}
	if n < size/2 {
		t.Fatalf("FIEMAP tells of %d bytes of %d", n, size)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	return out
}

// write lets the writers work.
func (f *recording) write(t *testing.T, root string, ops int) {
	t.Helper()
	m := &marker{disks: f.disks}
	const writers = 3
	ws := make([]*writer, writers)
	errs := make([]error, writers)
	var wg sync.WaitGroup
	var acked, running atomic.Int64
	for i := range ws {
		if err := os.Mkdir(filepath.Join(root, fmt.Sprintf("w%d", i)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := syncDir(root); err != nil {
		t.Fatal(err)
	}
	seed := f.rng.Uint64()
	running.Store(writers)
	for i := range ws {
		ws[i] = &writer{n: i, root: root, rng: rand.New(rand.NewPCG(seed, uint64(i))), mark: m}
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer running.Add(-1)
			errs[i] = ws[i].run(ops, &acked)
		}()
	}
	// With two disks there have to be moments at which nothing is in flight.
	next := int64(5)
	for len(f.disks) > 1 && running.Load() > 0 {
		if acked.Load() < next {
			time.Sleep(time.Millisecond)
			continue
		}
		next = acked.Load() + 3
		f.syncs = append(f.syncs, f.sync(t, m))
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("a writer met an error: %v\n%s%s", err, rig.KernelLog(20),
			rig.ServerLogs(f.set.Name))
	}
	for _, w := range ws {
		f.objects = append(f.objects, w.objects...)
	}
	f.last = m.seq
}

// sync sets a mark at which nothing is in flight on any disk.
func (f *recording) sync(t testing.TB, m *marker) int64 {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range f.disks {
		d.dm.Suspend(t)
	}
	seq, err := m.setLocked("sync")
	for _, d := range f.disks {
		d.dm.Resume(t)
	}
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

// summary counts what is in a log.
func summary(l *logwrites.Log) string {
	counts := map[string]int{}
	bytes, spliced := int64(0), 0
	for i, e := range l.Entries {
		e.Flags &^= logwrites.Metadata
		counts[e.Flags.String()]++
		bytes += e.Len
		if e.Flags.Has(logwrites.Flush) && l.Splice(i) < i {
			spliced++
		}
	}
	var words []string
	for k, n := range counts {
		words = append(words, fmt.Sprintf("%s %d", k, n))
	}
	slices.Sort(words)
	return fmt.Sprintf("%d entries, %d bytes: %s; %d flushes of something", len(l.Entries), bytes,
		strings.Join(words, ", "), spliced)
}
