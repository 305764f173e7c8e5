package breaker

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/metadata"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// faultCase is something that happens to a whole disk.
type faultCase struct {
	name, fault, made string
	always            bool
	// prepare makes the disk and returns what happens to it.
	prepare func(t testing.TB) *faultyDisk
}

// faultyDisk is a disk and what happens to it.
type faultyDisk struct {
	path string
	// create and start are further flags.
	create, start []string
	// begin and end make the fault come and go. The layout is that of the set.
	begin, end func(t testing.TB, lay rig.Layout)
	// replaced: when the fault is over the disk has the path that end has put into
	// path, and the set needs a new start.
	replaced bool
	// load is how many requests are made while the fault lasts; 0: 60. They are over the
	// whole ledger.
	load int
	// during, unless nil, goes on with the fault while the load runs; it ends with
	// the load.
	during func(t testing.TB, dev string, quit <-chan struct{})
	// holes, unless nil, is what reads as zeroes once the fault has begun.
	holes func(lay rig.Layout) rig.Extent
	// pause is what a requester waits between two requests.
	pause time.Duration
	// want checks the outcome.
	want func(t testing.TB, o outcome)
	// errno is what direct I/O to the disk gets while the fault lasts; empty: it
	// is asked.
	errno string
}

// outcome is what came of a fault.
type outcome struct {
	before, after rig.Status
	// first is the error of the first write that failed. trippedAt is the number of failed writes,
	// made one by one, after which the breaker was open; 0 if it stayed closed.
	first     error
	trippedAt int
	requests  int
	failed    int
	failures  string
}

func (o outcome) used() int64 { return o.after.Spare.Used - o.before.Spare.Used }

// retired is how many spare units are neither used nor free any more.
func (o outcome) retired() int64 { return unusable(o.after) - unusable(o.before) }

// unusable is how many spare units are neither used nor free.
func unusable(st rig.Status) int64 { return st.Spare.Total - st.Spare.Used - st.Spare.Free }

// mustNotRemap checks a fault that is not of the medium: requests fail, and nothing is remapped or
// retired.
func mustNotRemap(t testing.TB, o outcome) {
	t.Helper()
	if o.used() != 0 || o.retired() != 0 || o.after.Remaps != o.before.Remaps {
		t.Errorf("a fault that is not the medium's used %d spare units and retired %d; remaps "+
			"%d, before %d", o.used(), o.retired(), o.after.Remaps, o.before.Remaps)
	}
	if o.failed == 0 {
		t.Error("no request has failed: the fault did not come")
	}
}

// mustTrip also requires that the breaker opens at the first failure.
func mustTrip(t testing.TB, o outcome) {
	t.Helper()
	mustNotRemap(t, o)
	if o.trippedAt != 1 || o.after.State != "tripped" || o.after.Breaker.Reason == "" {
		t.Errorf("the breaker was open after %d failed writes, want 1; %s, %+v", o.trippedAt,
			o.after.State, o.after.Breaker)
	}
}

// mustStayClosed also requires that the breaker stays closed.
func mustStayClosed(t testing.TB, o outcome) {
	t.Helper()
	mustNotRemap(t, o)
	if o.trippedAt != 0 || o.after.Breaker.State != "closed" {
		t.Errorf("the breaker: %+v, open after %d failed writes", o.after.Breaker, o.trippedAt)
	}
}

// data is where the ledger's data above the head lies on the disk.
func data(lay rig.Layout) rig.Extent {
	return rig.At(lay.Head, dataSize-lay.Head)
}

func faultCases() []faultCase {
	return []faultCase{
		{
			name: "gone", fault: "the disk vanishes", made: "dm table swapped for `error`",
			prepare: func(t testing.TB) *faultyDisk {
				d := rig.NewDisk(t, rig.KindLoop, diskMiB, sector)
				return &faultyDisk{
					path:  d.Path,
					begin: func(t testing.TB, _ rig.Layout) { d.Vanish(t) },
					end:   func(t testing.TB, _ rig.Layout) { d.Back(t) },
					want:  mustTrip,
				}
			},
		},
		{
			name: "scsi-delete", fault: "the disk is deleted under load, and found again",
			made: "`echo 1 >/sys/block/sdX/device/delete`, rescan", always: true,
			prepare: func(t testing.TB) *faultyDisk {
				d := newScsi(t)
				// A disk that is gone has no size any more: writes get ENOSPC, reads 0 bytes.
				p := &faultyDisk{path: d.Path, replaced: true}
				p.want = func(t testing.TB, o outcome) {
					t.Helper()
					mustTrip(t, o)
					if !strings.HasPrefix(o.after.Breaker.Reason, d.Path+" is gone") {
						t.Errorf("reason: %s", o.after.Breaker.Reason)
					}
				}
				p.during = func(t testing.TB, dev string, _ <-chan struct{}) {
					if r := rig.Remap(t, "resume", dev); r.Code != 1 || !strings.Contains(r.Stderr,
						d.Path+" is gone") {
						t.Errorf("resume while the disk is gone\n%s", r)
					}
				}
				host := strings.Split(d.HCTL, ":")[0]
				p.begin = func(t testing.TB, _ rig.Layout) {
					poke(t, "/sys/block/"+filepath.Base(d.Path)+"/device/delete", "1")
				}
				p.end = func(t testing.TB, _ rig.Layout) {
					poke(t, "/sys/class/scsi_host/host"+host+"/scan", "- - -")
					p.path = scsiPath(t, d.HCTL)
				}
				return p
			},
		},
		{
			name: "scsi-offline", fault: "the disk goes offline",
			made: "`echo offline >/sys/block/sdX/device/state`",
			prepare: func(t testing.TB) *faultyDisk {
				d := newScsi(t)
				state := "/sys/block/" + filepath.Base(d.Path) + "/device/state"
				return &faultyDisk{
					path:  d.Path,
					begin: func(t testing.TB, _ rig.Layout) { poke(t, state, "offline\n") },
					end:   func(t testing.TB, _ rig.Layout) { poke(t, state, "running\n") },
					want:  mustNotRemap, // ENODEV or EIO, depending on the kernel
				}
			},
		},
		{
			name: "write-protect", fault: "the disk turns read-only in hardware (sense 7/27/00)",
			made: "scsi_debug `wp=1` at run time", always: true,
			prepare: func(t testing.TB) *faultyDisk {
				d := newScsi(t)
				const wp = "/sys/module/scsi_debug/parameters/wp"
				return &faultyDisk{
					path:  d.Path,
					begin: func(t testing.TB, _ rig.Layout) { poke(t, wp, "1") },
					end:   func(t testing.TB, _ rig.Layout) { poke(t, wp, "0") },
					want:  mustTrip,
				}
			},
		},
		{
			name: "setro", fault: "the disk is set read-only by the kernel",
			made: "BLKROSET (`blockdev --setro`) at run time", always: true,
			prepare: func(t testing.TB) *faultyDisk {
				loop := vmtest.NewLoop(t, diskMiB<<20, vmtest.LoopOptions{})
				return &faultyDisk{
					path:  loop,
					begin: func(t testing.TB, _ rig.Layout) { setReadOnly(t, loop, 1) },
					end:   func(t testing.TB, _ rig.Layout) { setReadOnly(t, loop, 0) },
					want: func(t testing.TB, o outcome) {
						t.Helper()
						mustStayClosed(t, o)
						// EPERM is none of the block layer's errors: the ublk driver makes it EIO.
						if o.first != syscall.EIO {
							t.Errorf("a write got %s, want EIO", errnoName(o.first))
						}
					},
				}
			},
		},
		{
			name: "flaky-path", fault: "a path that flaps: up 1 s, down 1 s",
			made: "dm-flakey, and `resume` again and again",
			prepare: func(t testing.TB) *faultyDisk {
				loop := vmtest.NewLoop(t, diskMiB<<20, vmtest.LoopOptions{})
				dm := vmtest.NewDM(t, vmtest.LinearTable(t, loop))
				return &faultyDisk{
					path: dm.Path, load: 400, pause: 40 * time.Millisecond,
					errno: "EIO, half of the time", during: resumer,
					begin: func(t testing.TB, _ rig.Layout) {
						vmtest.Modprobe(t, "dm_flakey")
						dm.Swap(t, vmtest.FlakeyTable(t, loop, 1, 1))
					},
					end: func(t testing.TB, _ rig.Layout) {
						dm.Swap(t, vmtest.LinearTable(t, loop))
					},
					want: wantFewRemaps,
				}
			},
		},
		{
			name: "flapping", fault: "a path that flaps every few ms",
			made: "dm tables swapped under load, and `resume` again and again",
			prepare: func(t testing.TB) *faultyDisk {
				d := rig.NewDisk(t, rig.KindLoop, diskMiB, sector)
				return &faultyDisk{
					path: d.Path, load: 400, errno: "EIO, half of the time",
					begin: func(t testing.TB, _ rig.Layout) { d.Vanish(t) },
					during: func(t testing.TB, dev string, quit <-chan struct{}) {
						for i := 0; ; i++ {
							if i%4 == 3 {
								_ = rig.Remap(t, "resume", dev)
							}
							select {
							case <-quit:
								return
							case <-time.After(time.Duration(rand.IntN(20)) * time.Millisecond):
							}
							if i%2 == 0 {
								d.Back(t)
							} else {
								d.Vanish(t)
							}
						}
					},
					end:  func(t testing.TB, _ rig.Layout) { d.Back(t) },
					want: wantFewRemaps,
				}
			},
		},
		{
			name: "storm-budget", fault: "all data sectors fail; spares and metadata do not",
			made: "dm-error over the data, `--remap-budget 64 --remap-rate 1`", always: true,
			prepare: func(t testing.TB) *faultyDisk {
				d := rig.NewDisk(t, rig.KindLoop, diskMiB, sector)
				return &faultyDisk{
					path: d.Path, create: []string{"--spare", "8MiB"},
					start: []string{"--remap-budget", "64", "--remap-rate", "1"}, load: 300,
					begin: func(t testing.TB, lay rig.Layout) {
						d.SetBad(t, []rig.Extent{data(lay)})
					},
					end: func(t testing.TB, _ rig.Layout) { d.SetBad(t, nil) },
					want: func(t testing.TB, o outcome) {
						t.Helper()
						// The bucket gains a unit a second; the test takes less than the
						// guard's minutes.
						if o.used() < 1 || o.used() > 64+300 || o.after.Breaker.State != "open" ||
							!strings.Contains(o.after.Breaker.Reason, "budget") {
							t.Errorf("%d spare units used, breaker %+v; the budget is 64", o.used(),
								o.after.Breaker)
						}
						if o.failed == 0 {
							t.Error("no request has failed")
						}
					},
				}
			},
		},
		{
			name: "storm", fault: "all data sectors fail; spares and metadata do not",
			made: "dm-error over the data, default budget, 2 MiB of spares",
			prepare: func(t testing.TB) *faultyDisk {
				d := rig.NewDisk(t, rig.KindLoop, diskMiB, sector)
				return &faultyDisk{
					path: d.Path, create: []string{"--spare", "2MiB"}, load: 1000,
					begin: func(t testing.TB, lay rig.Layout) {
						d.SetBad(t, []rig.Extent{data(lay)})
					},
					end: func(t testing.TB, _ rig.Layout) { d.SetBad(t, nil) },
					want: func(t testing.TB, o outcome) {
						t.Helper()
						if o.after.Spare.Free != 0 || o.after.Breaker.State != "closed" ||
							o.failed == 0 {
							t.Errorf("spare %+v, breaker %+v, %d failed; the spares were to be "+
								"used up, and no more", o.after.Spare, o.after.Breaker, o.failed)
						}
					},
				}
			},
		},
		{
			name: "no-spares", fault: "data sectors and the whole spare region fail",
			made: "dm-error over both",
			prepare: func(t testing.TB) *faultyDisk {
				d := rig.NewDisk(t, rig.KindLoop, diskMiB, sector)
				return &faultyDisk{
					path: d.Path,
					begin: func(t testing.TB, lay rig.Layout) {
						d.SetBad(t, append(lay.Of(metadata.RegionSpare, 0), data(lay)))
					},
					end: func(t testing.TB, _ rig.Layout) { d.SetBad(t, nil) },
					want: func(t testing.TB, o outcome) {
						t.Helper()
						mustTrip(t, o)
						if !strings.Contains(o.after.Breaker.Reason, "spare") {
							t.Errorf("reason: %s", o.after.Breaker.Reason)
						}
					},
				}
			},
		},
		{
			name: "no-metadata", fault: "data sectors and both metadata mirrors fail",
			made: "dm-error over them", always: true,
			prepare: func(t testing.TB) *faultyDisk {
				d := rig.NewDisk(t, rig.KindLoop, diskMiB, sector)
				return &faultyDisk{
					path: d.Path,
					begin: func(t testing.TB, lay rig.Layout) {
						d.SetBad(t, append(lay.Of(metadata.RegionMirror, 0), data(lay)))
					},
					end: func(t testing.TB, _ rig.Layout) { d.SetBad(t, nil) },
					want: func(t testing.TB, o outcome) {
						t.Helper()
						if o.failed == 0 || o.trippedAt != 1 || o.after.Breaker.State != "open" ||
							!strings.Contains(o.after.Breaker.Reason, "metadata") {
							t.Errorf("%d failed, open after %d, breaker %+v", o.failed, o.trippedAt,
								o.after.Breaker)
						}
						if o.after.Remaps > o.before.Remaps+1 {
							t.Errorf("%d remaps, although nothing could be committed",
								o.after.Remaps)
						}
					},
				}
			},
		},
		{
			name: "sporadic", fault: "one write in 20 fails with EIO, anywhere",
			made: "a driver (ublk) that answers so",
			prepare: func(t testing.TB) *faultyDisk {
				v := newServed(t)
				return &faultyDisk{
					path: v.path, load: 400, errno: "EIO, now and then",
					begin: func(testing.TB, rig.Layout) {
						v.say(func(write bool, _ rig.Extent) syscall.Errno {
							if write && rand.IntN(20) == 0 {
								return syscall.EIO
							}
							return 0
						})
					},
					end: func(t testing.TB, _ rig.Layout) { v.cure(t) },
					want: func(t testing.TB, o outcome) {
						t.Helper()
						// 1 in 20³ fails at first and at both of its retries.
						if o.failed != 0 || o.used() > 4 || o.after.Breaker.State != "closed" ||
							o.after.Errors.Write == o.before.Errors.Write {
							t.Errorf("%s; %d spare units used; breaker %+v, errors %+v: retries "+
								"in place were to do", o.failures, o.used(), o.after.Breaker,
								o.after.Errors)
						}
					},
				}
			},
		},
		{
			name: "thin-full", fault: "the file system under the disk is full",
			made: "a loop device on a sparse file on a full tmpfs",
			prepare: func(t testing.TB) *faultyDisk {
				dir := t.TempDir()
				if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=40m"); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { vmtest.Unmount(t, dir) })
				file, ballast := filepath.Join(dir, "disk"), filepath.Join(dir, "ballast")
				if err := os.WriteFile(file, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Truncate(file, diskMiB<<20); err != nil {
					t.Fatal(err)
				}
				return &faultyDisk{
					path: vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: file}),
					// The data that is there goes: every block has to be allocated again.
					holes: data,
					begin: func(t testing.TB, lay rig.Layout) {
						punch(t, file, data(lay))
						fillUp(t, ballast)
					},
					end: func(t testing.TB, _ rig.Layout) {
						if err := os.Remove(ballast); err != nil {
							t.Fatal(err)
						}
					},
					want: mustNotRemap, // ENOSPC, or EIO from older loop drivers
				}
			},
		},
		{
			name: "loop-detach", fault: "a loop device is detached while it is served",
			made: "LOOP_CLR_FD (`losetup -d`)",
			prepare: func(t testing.TB) *faultyDisk {
				loop := vmtest.NewLoop(t, diskMiB<<20, vmtest.LoopOptions{})
				holder := rig.Open(t, loop) // the test cleanup closes it last
				return &faultyDisk{
					path: loop, errno: "none: the kernel waits for the last user",
					begin: func(t testing.TB, _ rig.Layout) {
						f, err := os.Open(loop)
						if err == nil {
							_ = unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)
							err = f.Close()
						}
						if err != nil {
							t.Fatal(err)
						}
					},
					end: func(testing.TB, rig.Layout) { _ = holder },
					want: func(t testing.TB, o outcome) {
						t.Helper()
						if o.failed != 0 || o.used() != 0 || o.after.Breaker.State != "closed" {
							t.Errorf("%s; %+v", o.failures, o.after)
						}
					},
				}
			},
		},
		{
			name: "timeouts", fault: "commands are not answered any more",
			made: "scsi_debug, write commands that time out",
			prepare: func(t testing.TB) *faultyDisk {
				d := newScsi(t)
				dev := "/sys/block/" + filepath.Base(d.Path) + "/device/"
				rules := filepath.Join("/sys/kernel/debug/scsi_debug", d.HCTL, "error")
				return &faultyDisk{
					path: d.Path, load: 2, errno: "EIO, after retries",
					begin: func(t testing.TB, _ rig.Layout) {
						poke(t, dev+"timeout", "1")
						poke(t, dev+"eh_timeout", "1")
						poke(t, rules, fmt.Sprintf("0 1000000 %#x", scsiWrite))
					},
					end: func(t testing.TB, _ rig.Layout) {
						poke(t, rules, fmt.Sprintf("- 0 %#x", scsiWrite))
						poke(t, dev+"state", "running\n")
					},
					want: mustNotRemap,
				}
			},
		},
	}
}

// resumer is an operator who closes the breaker whenever it is open.
func resumer(t testing.TB, dev string, quit <-chan struct{}) {
	for {
		select {
		case <-quit:
			return
		case <-time.After(100 * time.Millisecond):
			_ = rig.Remap(t, "resume", dev) // refused when it is closed
		}
	}
}

// wantFewRemaps: a fault that lasts for a moment may look like a bad sector, if the spare
// and the commit work again by then. It must not cost more than the budget.
func wantFewRemaps(t testing.TB, o outcome) {
	t.Helper()
	if o.failed == 0 && o.used() == 0 {
		t.Error("nothing has failed: the path did not flap")
	}
	if o.used() > 64 {
		t.Errorf("%d spare units used", o.used())
	}
}

func setReadOnly(t testing.TB, path string, on int) {
	t.Helper()
	f, err := os.Open(path)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.BLKROSET, on)
		_ = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func punch(t testing.TB, file string, e rig.Extent) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err == nil {
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
			e.Start, e.Length)
		_ = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// fillUp writes a file until its file system is full.
func fillUp(t testing.TB, file string) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, 64<<10)
	for len(b) > 0 {
		if _, err := f.Write(b); err != nil {
			b = b[:len(b)/2]
		}
	}
}

// TestFault makes whole disks fail.
func TestFault(t *testing.T) {
	vmtest.NeedUblk(t)
	for _, c := range faultCases() {
		if !c.always && !vmtest.Full() {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			vmtest.OnOneKernel(t)
			rig.Guard(t, 5*time.Minute)
			testFault(t, c)
		})
	}
}

func testFault(t *testing.T, c faultCase) {
	p := c.prepare(t)
	if p.create == nil {
		p.create = []string{"--spare", "2MiB"}
	}
	s := rig.Create(t, p.path, "", p.create...)
	lay, path := rig.LayoutOf(t, p.path), p.path
	s.Start(t, append([]string{"--queues", "2"}, p.start...)...)
	l := newLedger(t, s.Dev, dataSize)
	o := outcome{before: s.Status(t)}
	var raw *rig.Direct
	if p.errno == "" {
		raw = rig.Open(t, p.path)
	}

	if p.holes != nil {
		l.zero(p.holes(lay))
	}
	p.begin(t, lay)
	if raw != nil {
		// This is in the middle of the ledger's data. It writes the data that is there already.
		b := rig.Aligned(unit)
		if err := raw.Read(b, lay.Head+1<<20); err != nil {
			p.errno = "reads: " + errnoName(err)
			rig.Pattern(b, lay.Head+1<<20, 1)
		} else {
			p.errno = "reads: well"
		}
		p.errno += ", writes: " + errnoName(raw.Write(b, lay.Head+1<<20))
		raw.Close()
	}
	// One write after another at first, to see when the breaker trips.
	for n := int64(0); n < 4; n++ {
		if err := l.write(lay.Head+n*(1<<20), unit); err != nil && o.first == nil {
			o.first = err
		}
		fails, _ := l.failures()
		if st := s.Status(t); st.Breaker.State != "closed" && o.trippedAt == 0 {
			o.trippedAt = max(fails, 1)
		}
	}
	quit := make(chan struct{})
	var wg sync.WaitGroup
	if p.during != nil {
		wg.Add(1)
		go func() {
			defer wg.Done()
			p.during(t, s.Dev, quit)
		}()
	}
	began := time.Now()
	requestLoad(t, l, cmp.Or(p.load, 60), p.pause)
	took := time.Since(began)
	close(quit)
	wg.Wait()
	o.after = s.Status(t)
	o.failed, o.failures = l.failures()
	o.requests = l.done
	p.want(t, o)
	if o.after.ServerPID == 0 {
		t.Errorf("the server is dead")
	}
	t.Logf("%d requests, %d failed (%s) in %v; %d spare units used, %d retired; breaker %+v, "+
		"open after %d failed writes; errors %+v, heals %+v",
		o.requests, o.failed, o.failures, took.Round(time.Millisecond), o.used(), o.retired(),
		o.after.Breaker, o.trippedAt, o.after.Errors, o.after.Heals)

	p.end(t, lay)
	after := ""
	if p.replaced {
		// The disk that the server has open is gone for good.
		l.dev.Close()
		s.StopWithoutDisk(t)
		s.Path = p.path
		s.Start(t)
		l.reopen(t, s.Dev)
		after = "a new start"
		if how := recoverAll(t, s, l); how != "nothing" {
			after += "; " + how
		}
	} else {
		after = recoverAll(t, s, l)
	}
	breaker := "closed"
	if o.after.Breaker.State != "closed" {
		breaker = "open: " + strings.ReplaceAll(o.after.Breaker.Reason, path, "DISK")
		if o.trippedAt > 0 {
			breaker += fmt.Sprintf(" (failed write %d)", o.trippedAt)
		}
	}
	answer := fmt.Sprintf("%d of %d requests fail", o.failed, o.requests)
	if o.failures != "" {
		answer += ": " + o.failures
	}
	row{
		fault: c.fault, made: c.made, errno: p.errno, answer: answer,
		spares: fmt.Sprint(o.used()), breaker: breaker, after: after,
	}.add()
}

// requestLoad makes requests all over the ledger, from four sides: three writers and
// a reader, each at its own quarter.
func requestLoad(t testing.TB, l *ledger, requests int, pause time.Duration) {
	t.Helper()
	const sides = 4
	quarter := l.size() / sides
	done := make(chan struct{})
	var wg sync.WaitGroup
	for side := range int64(sides) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rng := rand.New(rand.NewPCG(uint64(side), 7))
			for i := range (requests + sides - 1) / sides {
				n := int64(unit) << rng.IntN(5)
				off := side*quarter + rng.Int64N((quarter-n)/unit+1)*unit
				time.Sleep(pause)
				if i%sides == 3 {
					_ = l.read(t, off, n)
				} else {
					_ = l.write(off, n)
				}
			}
		}()
	}
	go func() { wg.Wait(); close(done) }()
	// The load may take long. If no request ends for a while, it counts as hung.
	for last := -1; ; {
		select {
		case <-done:
			return
		case <-time.After(rig.Limit):
		}
		now := l.requests()
		if now == last {
			rig.DumpTasks("I/O to a faulty disk has not ended")
			t.Fatal("I/O to a faulty disk has not ended")
		}
		last = now
	}
}

// TestReadOnlyDisk: create refuses a disk that cannot be written, and start refuses a set on one.
func TestReadOnlyDisk(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	rig.Guard(t, 2*time.Minute)
	loop := vmtest.NewLoop(t, diskMiB<<20, vmtest.LoopOptions{})
	setReadOnly(t, loop, 1)
	if r := rig.Remap(t, "create", loop, "--yes"); r.Code == 0 || r.Stderr == "" {
		t.Errorf("create on a read-only disk\n%s", r)
	}
	setReadOnly(t, loop, 0)
	s := rig.Create(t, loop, "")
	setReadOnly(t, loop, 1)
	r := rig.Remap(t, "start", loop)
	if r.Code == 0 || r.Stderr == "" {
		t.Errorf("start on a read-only disk\n%s", r)
	}
	if found, _ := filepath.Glob("/dev/ublkb*"); len(found) != 0 {
		t.Errorf("a start that failed left %v", found)
	}
	s.Check(t)
	setReadOnly(t, loop, 0)
	s.Start(t)
	s.Stop(t)
	row{
		fault: "the disk is read-only from the start", made: "BLKROSET", errno: "EPERM",
		spares: "0", breaker: "closed",
		answer: fmt.Sprintf("`create` and `start` refuse, exit code %d: %s", r.Code,
			strings.TrimSpace(r.Stderr)), after: "nothing",
	}.add()
}
