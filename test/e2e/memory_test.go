package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// processMemory is what the kernel tells of a process's memory.
type processMemory struct {
	minor, major           int64 // page faults
	locked, swapped, resid int64 // KiB
}

func memoryOf(t testing.TB, pid int) processMemory {
	t.Helper()
	var m processMemory
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	// proc_pid_stat(5): after the name in parentheses come state (3), …, minflt (10),
	// cminflt, majflt (12).
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	m.minor, _ = strconv.ParseInt(fields[10-3], 10, 64)
	m.major, _ = strconv.ParseInt(fields[12-3], 10, 64)
	m.locked = rig.ProcessKiB(t, pid, "VmLck")
	m.swapped = rig.ProcessKiB(t, pid, "VmSwap")
	m.resid = rig.ProcessKiB(t, pid, "VmRSS")
	return m
}

// settled waits until a server makes no more memory present by itself.
func settled(t testing.TB, pid int) processMemory {
	t.Helper()
	last, since := memoryOf(t, pid), 0
	for n := 0; n < 600; n++ {
		time.Sleep(200 * time.Millisecond)
		now := memoryOf(t, pid)
		if now.minor > last.minor+5 {
			since = 0
		} else if since++; since == 5 {
			return now
		}
		last = now
	}
	t.Fatalf("the server's memory does not settle: %+v", last)
	return last
}

// TestMemoryIsThere: what a server needs to serve and to heal is in memory before
// it is needed.
func TestMemoryIsThere(t *testing.T) {
	vmtest.NeedUblk(t)
	vmtest.OnOneKernel(t)
	for _, zc := range somePaths(1) {
		t.Run(pathName(zc), func(t *testing.T) { testMemoryIsThere(t, zc) })
	}
}

func testMemoryIsThere(t *testing.T, zeroCopy bool) {
	rig.Guard(t, 3*time.Minute)
	rng := rig.Random(t)
	d := rig.NewDisk(t, rig.KindLoop, diskMiB, 512)
	s := create(t, d, "--spare", fmt.Sprintf("%dMiB", spareMiB))
	s.Start(t, "--queues", "2", "--depth", "32", dataPath(zeroCopy))
	lay := rig.LayoutOf(t, d.Path)
	pid := s.Status(t).ServerPID
	score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
	if err != nil || strings.TrimSpace(string(score)) != "-1000" {
		t.Errorf("oom_score_adj is %q, %v", score, err)
	}
	most := "256k"
	if !zeroCopy {
		// The memory for larger requests is made present before such requests are allowed. No I/O
		// waits for these page faults, but they count.
		most = "32k"
		if err := os.WriteFile("/sys/block/"+filepath.Base(s.Dev)+"/queue/nomerges", []byte("2"),
			0); err != nil {
			t.Fatal(err)
		}
	}
	write := func(size string) {
		rig.RunFio(t, s.Dev, "rw=randwrite", "size="+size, "bsrange=4k-"+most, "iodepth=16",
			"verify=crc32c", fmt.Sprintf("randseed=%d", rng.Uint32()))
	}
	began := settled(t, pid)
	write("8M")
	plain := memoryOf(t, pid)
	var bad []rig.Extent
	for range 60 {
		bad = append(bad, lay.HomesOnBacking(rig.At(rng.Int64N(8<<20/512)*512, 512))...)
	}
	d.SetBad(t, bad)
	write("8M")
	healed := memoryOf(t, pid)
	st := s.Status(t)
	t.Logf("resident %d KiB, then %d, then %d with heals; faults with plain writes %d, with "+
		"heals %d (%d remaps); major faults %d",
		began.resid, plain.resid, healed.resid, plain.minor-began.minor, healed.minor-plain.minor,
		st.Remaps, healed.major-began.major)
	if st.Remaps == 0 {
		t.Error("no block was remapped")
	}
	if healed.major != began.major || healed.swapped != 0 {
		t.Errorf("pages had to be read: %d major faults, %d KiB swapped", healed.major-began.major,
			healed.swapped)
	}
	// A fault can bring two MiB (transparent huge pages), and the runtime may use one of
	// its own areas, or two, for the first time. Buffers and heap that come when they are
	// first used are tens of MiB.
	if n := healed.resid - began.resid; n > 8<<10 {
		t.Errorf("%d KiB more are in use after the writes", n)
	}
	if n := healed.minor - began.minor; n > 700 {
		t.Errorf("%d pages had to be made", n)
	}
	if healed.locked < healed.resid-1<<10 {
		t.Errorf("only %d KiB are locked", healed.locked)
	}
}

func init() {
	// Words: MiB to lock, MiB to use, rounds, seed.
	rig.Helper("useMemory", func(words []string) error {
		var lock, use, rounds int
		var seed uint64
		if _, err := fmt.Sscan(strings.Join(words, " "), &lock, &use, &rounds, &seed); err != nil {
			return err
		}
		return useMemory(lock, use, rounds, seed)
	})
}

// useMemory locks memory, then fills other memory, and in each round reads every page
// of that and writes it anew, in random order. Without rounds it waits until it is killed.
func useMemory(lock, use, rounds int, seed uint64) error {
	// No huge pages: khugepaged, whose priority is the lowest, makes them with the lock of this
	// process's address space held. On a machine that starves it, it held that for minutes.
	if err := unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("do without huge pages: %w", err)
	}
	locked, err := unix.Mmap(-1, 0, max(lock, 1)<<20, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_ANON|unix.MAP_PRIVATE)
	if err == nil {
		err = unix.Mlock(locked)
	}
	if err != nil {
		return fmt.Errorf("lock %d MiB: %w", lock, err)
	}
	fmt.Println("locked")
	if rounds == 0 {
		select {}
	}
	mem, err := unix.Mmap(-1, 0, use<<20, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	const words = 4096 / 8
	value := func(page, round int) uint64 {
		return (uint64(page)<<20 | uint64(round)) * 0x9e3779b97f4a7c15
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	pages := rng.Perm(len(mem) / 4096)
	for round := range rounds {
		for _, p := range pages {
			page := unsafe.Slice((*uint64)(unsafe.Pointer(&mem[p*4096])), words)
			was, is := value(p, round-1), value(p, round)
			for i := range page {
				if round > 0 && page[i] != was+uint64(i) {
					return fmt.Errorf("round %d: page %d has %#x at word %d, want %#x", round, p,
						page[i], i, was+uint64(i))
				}
				page[i] = is + uint64(i)
			}
		}
		fmt.Printf("round %d\n", round)
	}
	runtime.KeepAlive(locked)
	return nil
}

// startMemoryUser starts the memory user.
func startMemoryUser(t testing.TB, lock, use int64, rounds int, seed uint64) *rig.Process {
	t.Helper()
	return rig.LaunchCmd(t, rig.HelperCommand("useMemory", fmt.Sprint(lock), fmt.Sprint(use),
		fmt.Sprint(rounds), fmt.Sprint(seed)))
}

// tightDisk is a disk that takes no memory when it is written to: all of null_blk's
// pages are there.
func tightDisk(t testing.TB, sizeMiB int) *rig.Disk {
	t.Helper()
	d := rig.NewDisk(t, rig.KindNull, sizeMiB, 4096)
	f := rig.Open(t, d.Path)
	buf := rig.Aligned(1 << 20)
	for off := int64(0); off < d.Size; off += int64(len(buf)) {
		if err := f.Write(buf, off); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	return d
}

// someBad are single blocks at random places of an extent of the exported device.
func someBad(rng *rand.Rand, lay rig.Layout, in rig.Extent, n int) []rig.Extent {
	var bad []rig.Extent
	for range n {
		e := rig.At(in.Start+rng.Int64N(in.Length/4096)*4096, 4096)
		bad = append(bad, lay.HomesOnBacking(e)...)
	}
	return bad
}

const availableMiB = 130 // what the tests below leave of the memory

// TestSwapOnItself really swaps to the device while its disk has bad sectors.
func TestSwapOnItself(t *testing.T) {
	vmtest.NeedUblk(t)
	vmtest.NeedRoot(t)
	vmtest.OnOneKernel(t)
	turn := 0
	for _, zc := range somePaths(turn) {
		t.Run(pathName(zc), func(t *testing.T) {
			testSwapOnItself(t, zc, "--depth", "64", "--max-io", "128KiB")
		})
	}
	// As much memory as the largest requests could take is not there when it is needed.
	t.Run("large requests", func(t *testing.T) {
		testSwapOnItself(t, false, "--depth", "256", "--max-io", "1MiB")
	})
}

func testSwapOnItself(t *testing.T, zeroCopy bool, args ...string) {
	// The guard takes the device away, and with it the memory of everybody who was swapped out: the
	// machine does not survive that.
	rig.Guard(t, 15*time.Minute)
	rng := rig.Random(t)
	use, rounds := int64(availableMiB+100), 2
	if vmtest.Full() {
		rounds = 10
	}
	// The device has room for all memory that is used beyond what is available, and a good deal
	// more: without free swap the kernel kills processes.
	d := tightDisk(t, 144)
	s := create(t, d, "--spare", "4MiB")
	s.Start(t, append(args, "--queues", "2", dataPath(zeroCopy))...)
	lay := rig.LayoutOf(t, d.Path)
	before := settled(t, s.Status(t).ServerPID)

	f := rig.Open(t, s.Dev)
	size := f.Size
	f.Close()
	// The disk goes bad before anything is there: a page that cannot be read back
	// ends its process, on any disk.
	d.SetBad(t, someBad(rng, lay, rig.At(1<<20, size-1<<20), 250))
	swapoff := swapOn(t, s.Dev)
	defer swapoff()
	lock := rig.KiB(t, "/proc/meminfo", "MemAvailable")>>10 - availableMiB
	p := startMemoryUser(t, lock, use, rounds, rng.Uint64())
	r := p.Wait(t, 12*time.Minute)
	if r.Code != 0 {
		t.Fatalf("the memory's user\n%s", r)
	}
	swapoff()
	st := s.Status(t)
	after := memoryOf(t, st.ServerPID)
	t.Logf("locked %d MiB, used %d MiB in %d rounds; %d MiB swapped out, %d MiB in; %d remaps; "+
		"the server: %d minor faults, %d major, %d KiB resident",
		lock, use, rounds, st.IO.WriteBytes>>20, st.IO.ReadBytes>>20, st.Remaps,
		after.minor-before.minor, after.major-before.major, after.resid)
	if st.IO.WriteBytes < 10<<20 || st.Remaps == 0 {
		t.Errorf("%d bytes were swapped out, %d remaps: no test of anything", st.IO.WriteBytes,
			st.Remaps)
	}
	if st.ServerPID != s.PID() || after.swapped != 0 || after.major != before.major {
		t.Errorf("the server's own memory: %+v, before: %+v", after, before)
	}
}

// TestAllMemoryDirty fills memory with dirty pages of a file system on a bad
// disk, and then writes them out.
func TestAllMemoryDirty(t *testing.T) {
	vmtest.NeedUblk(t)
	vmtest.NeedRoot(t)
	vmtest.OnOneKernel(t)
	turn := 1
	for _, zc := range somePaths(turn) {
		t.Run(pathName(zc), func(t *testing.T) { testAllMemoryDirty(t, zc) })
	}
}

func testAllMemoryDirty(t *testing.T, zeroCopy bool) {
	rig.Guard(t, 15*time.Minute)
	rng := rig.Random(t)
	for name, value := range map[string]string{"dirty_background_ratio": "90", "dirty_ratio": "95",
		"dirty_expire_centisecs": "360000"} {
		setting(t, "/proc/sys/vm/"+name, value)
	}
	d := tightDisk(t, 160)
	s := create(t, d, "--spare", "4MiB")
	s.Start(t, "--queues", "2", "--depth", "64", "--max-io", "128KiB", dataPath(zeroCopy))
	lay := rig.LayoutOf(t, d.Path)
	rig.Run(t, "mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "nodiscard", s.Dev)
	dir := s.Mount(t, "ext4")
	const size = 120 << 20
	var bad []rig.Extent
	for _, e := range rig.Reserve(t, dir+"/file", size) {
		bad = append(bad, someBad(rng, lay, e, int(e.Length>>20)+1)...)
	}
	before := settled(t, s.Status(t).ServerPID)
	d.SetBad(t, bad)
	lock := rig.KiB(t, "/proc/meminfo", "MemAvailable")>>10 - availableMiB
	user := startMemoryUser(t, lock, 0, 0, 0)
	for deadline := time.Now().Add(rig.Limit); rig.KiB(t, "/proc/meminfo",
		"MemAvailable")>>10 > availableMiB+40; {
		if user.Ended() || time.Now().After(deadline) {
			t.Fatalf("memory does not get scarce\n%s", user.Result())
		}
		time.Sleep(50 * time.Millisecond)
	}
	f, err := os.OpenFile(dir+"/file", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<20)
	dirty := int64(0)
	for off := int64(0); off < size; off += int64(len(buf)) {
		rig.Pattern(buf, off, 7)
		if _, err := f.WriteAt(buf, off); err != nil {
			t.Fatalf("write at %d: %v", off, err)
		}
		dirty = max(dirty, rig.KiB(t, "/proc/meminfo", "Dirty")+rig.KiB(t, "/proc/meminfo",
			"Writeback"))
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	st := s.Status(t)
	after := memoryOf(t, st.ServerPID)
	t.Logf("left %d MiB, up to %d MiB dirty, wrote %d MiB; %d remaps; the server: %d minor "+
		"faults, %d major, %d KiB resident",
		availableMiB, dirty>>10, st.IO.WriteBytes>>20, st.Remaps, after.minor-before.minor,
		after.major-before.major, after.resid)
	if st.ServerPID != s.PID() || after.major != before.major || st.Remaps == 0 ||
		dirty < 20<<10 {
		t.Errorf("%+v, before %+v; %d remaps", after, before, st.Remaps)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off < size; off += int64(len(buf)) {
		if _, err := f.ReadAt(buf, off); err != nil {
			t.Fatalf("read at %d: %v", off, err)
		}
		rig.WantPattern(t, buf, off, 7)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	_ = user.Cmd.Process.Kill()
	user.Wait(t, rig.Limit)
	rig.Unmount(t, dir)
	rig.Fsck(t, "ext4", s.Dev)
}

// setting changes a sysctl until the test ends.
func setting(t testing.TB, path, value string) {
	t.Helper()
	was, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, []byte(value), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(path, was, 0o644); err != nil {
			t.Error(err)
		}
	})
}

// TestIdleIsSmall: a device with defaults that nobody uses takes little, what it takes for
// large requests follows the load, and one that the machine cannot hold is refused.
func TestIdleIsSmall(t *testing.T) {
	vmtest.NeedUblk(t)
	vmtest.OnOneKernel(t)
	rig.Guard(t, 3*time.Minute)
	d := rig.NewDisk(t, rig.KindLoop, diskMiB, 512)
	s := create(t, d, "--spare", fmt.Sprintf("%dMiB", spareMiB))
	for _, zc := range paths() {
		s.Start(t, dataPath(zc))
		m := settled(t, s.Status(t).ServerPID)
		t.Logf("%s: %d KiB", pathName(zc), m.resid)
		if m.resid > 32<<10 {
			t.Errorf("%s: an idle server takes %d KiB", pathName(zc), m.resid)
		}
		if zc {
			s.Stop(t)
			continue
		}
		limit := "/sys/block/" + filepath.Base(s.Dev) + "/queue/max_sectors_kb"
		small := rig.KiB(t, limit, "")
		if small >= 512 {
			t.Errorf("requests of %d KiB are let in", small)
		}
		f := rig.Open(t, s.Dev)
		buf := rig.Aligned(4 << 20)
		for deadline := time.Now().Add(20 * time.Second); rig.KiB(t, limit, "") < 512; {
			if err := f.Read(buf, 0); err != nil {
				t.Fatal(err)
			}
			if time.Now().After(deadline) {
				t.Fatal("under load no larger requests are let in")
			}
		}
		f.Close()
		s.Stop(t)
	}
	total := rig.KiB(t, "/proc/meminfo", "MemTotal")
	if total > 60<<20 {
		t.Skip("this machine could hold the largest device")
	}
	r := rig.Remap(t, "start", d.Path, "--queues", "64", "--depth", "1024", "--max-io", "1MiB",
		dataPath(false))
	if r.Code != rig.ExitFailed || strings.Count(r.Stderr, "\n") != 1 || !strings.Contains(r.Stderr,
		"64 GiB") {
		t.Errorf("a device of 64 GiB of buffers\n%s", r)
	}
}
