package metadata

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"
)

// outage is a path that comes and goes. Nothing is wrong with the media behind it.
type outage struct {
	name string
	// failing is the errno of operation n, 0 if it goes through.
	failing func(n int, read bool) syscall.Errno
	n       int
	now     int64 // of its clock
}

// apart is a device behind an outage that has no clock.
type apart struct {
	Device
	o *outage
}

func (a apart) fails(read bool) error {
	a.o.n++
	a.o.now += int64(100 * time.Microsecond)
	if errno := a.o.failing(a.o.n, read); errno != 0 {
		return errno
	}
	return nil
}

func (a apart) ReadAt(b []byte, off int64) (int, error) {
	if err := a.fails(true); err != nil {
		return 0, err
	}
	return a.Device.ReadAt(b, off)
}

func (a apart) WriteAt(b []byte, off int64) (int, error) {
	if err := a.fails(false); err != nil {
		return 0, err
	}
	return a.Device.WriteAt(b, off)
}

func (a apart) Sync() error {
	if err := a.fails(false); err != nil {
		return err
	}
	return a.Device.Sync()
}

// clocked is such a device with a clock. No test waits for that clock.
type clocked struct{ apart }

func (c clocked) Monotonic() int64      { return c.o.now }
func (c clocked) Pause(d time.Duration) { c.o.now += int64(d) }

func (o *outage) over(devs []Device, clock bool) []Device {
	out := make([]Device, len(devs))
	for i, d := range devs {
		if out[i] = (apart{d, o}); clock {
			out[i] = clocked{apart{d, o}}
		}
	}
	return out
}

// outagesAt are the ways in which a path fails at its n-th operation.
func outagesAt(n int, r *rand.Rand) (out []*outage) {
	for _, kind := range []struct {
		name  string
		errno syscall.Errno
	}{{"link", syscall.ENOLINK}, {"gone", syscall.EIO}, {"removed", syscall.ENXIO},
		{"memory", syscall.ENOMEM}, {"busy", syscall.EAGAIN}} {
		for _, long := range []int{1, 7, 100, 1 << 40} {
			o := &outage{name: fmt.Sprintf("%s from %d, for %d", kind.name, n, long)}
			o.failing = func(at int, _ bool) syscall.Errno {
				if at >= n && at-n < long {
					return kind.errno
				}
				return 0
			}
			out = append(out, o)
			// The path fails once more a while later, so that it affects two copies of one thing.
			if long < 1<<40 {
				gap := 1 + r.IntN(60)
				twice := &outage{name: o.name + fmt.Sprintf(", and again after %d", gap)}
				twice.failing = func(at int, read bool) syscall.Errno {
					return cmpOr(o.failing(at,
						read), o.failing(at-long-gap, read))
				}
				out = append(out, twice)
			}
		}
	}
	seed := r.Uint64()
	for _, mean := range []int{1, 4, 16, 64} {
		f := &outage{name: fmt.Sprintf("flaps, %d on average, seed %d", mean, seed)}
		rr, down, left := rand.New(rand.NewPCG(seed, 1)), true, 0
		f.failing = func(int, bool) syscall.Errno {
			if left == 0 {
				down, left = !down, 1+rr.IntN(2*mean)
			}
			if left--; down {
				return syscall.ENOLINK
			}
			return 0
		}
		out = append(out, f)
	}
	return out
}

func cmpOr(a, b syscall.Errno) syscall.Errno {
	if a != 0 {
		return a
	}
	return b
}

// TestFlushLacksResources: a flush that was not carried out is asked for again. Any other failed
// flush is final.
func TestFlushLacksResources(t *testing.T) {
	for _, clock := range []bool{false, true} {
		for _, errno := range []syscall.Errno{syscall.ENOMEM, syscall.EAGAIN, syscall.EBUSY,
			syscall.EIO, syscall.ENOLINK} {
			again := Classify(int32(errno)) == ClassResource
			for _, failures := range []int{3, 1 << 40} {
				o := &outage{failing: func(at int, _ bool) syscall.Errno {
					if at <= failures {
						return errno
					}
					return 0
				}}
				d := withRetries(o.over([]Device{newMemDisk(1 << 20)}, clock))[0]
				err := d.Sync()
				if (err == nil) != (again && failures == 3) {
					t.Errorf("%v, %d times, clock %v: %v", errno, failures, clock, err)
				}
				if err != nil && (!errors.Is(err, ErrPath) || !errors.Is(err, errno) ||
					!errors.Is(d.Sync(), ErrPath)) {
					t.Errorf("%v: %v", errno, err)
				}
				if !again && o.n != 1 {
					t.Errorf("%v: asked for %d times", errno, o.n)
				}
			}
		}
	}
}

// weak is a medium of which one read in ten fails, and the next one does not.
func weak(seed uint64) *outage {
	r := rand.New(rand.NewPCG(seed, 2))
	return &outage{name: fmt.Sprintf("one read in ten, seed %d", seed),
		failing: func(_ int, read bool) syscall.Errno {
			if read && r.IntN(10) == 0 {
				return syscall.EIO
			}
			return 0
		}}
}

// refusal fails the test unless err is the error for a device that could not be asked.
func refusal(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, ErrPath) || errors.Is(err, ErrDamaged) || errors.Is(err, ErrNotFound) {
		t.Fatalf("%s: %v", what, err)
	}
}

// TestLoadOverBadPath: a load finds everything, or fails with an error that does not blame the
// disk's metadata. It never finds older data.
func TestLoadOverBadPath(t *testing.T) {
	r := seeded(t, 501)
	for _, tc := range worlds {
		w := ran(t, tc.p, 502, 25)
		img, err := Load(devices(w.disks))
		if err != nil {
			t.Fatal(err)
		}
		want := img.tip.Position
		found, refused := 0, 0
		try := func(o *outage, clock bool, disks []*memDisk) {
			what := tc.name + ": " + o.name
			for _, d := range disks {
				d.readOnly = true
			}
			img, err := Load(o.over(devices(disks), clock))
			if err == nil && img.tip.Position != want {
				t.Fatalf("%s: it loads record %s, the newest is %s", what, img.tip.Position, want)
			}
			if err == nil {
				if bad := img.mirrors[0].garbage() + img.mirrors[1].garbage(); bad > 0 {
					t.Fatalf("%s: %d log slots are to be zeroed that are well", what, bad)
				}
				_, err = img.Table()
			}
			if err != nil {
				refused++
				refusal(t, what, err)
				return
			}
			found++
		}
		total := &outage{failing: func(int, bool) syscall.Errno { return 0 }}
		if _, err := Load(total.over(devices(w.disks), true)); err != nil {
			t.Fatal(err)
		}
		for n := 1; n < total.n+3; n += 1 + r.IntN(1+total.n/40) {
			for _, o := range outagesAt(n, r) {
				try(o, n%2 == 0, clones(w.disks))
			}
		}
		for seed := range uint64(300) {
			try(weak(seed), seed%2 == 0, clones(w.disks))
		}
		if found == 0 || refused == 0 {
			t.Errorf("%s: %d loads found all, %d refused", tc.name, found, refused)
		}
		t.Logf("%s: %d loads found all, %d refused", tc.name, found, refused)
	}
}

// TestVerbsOverBadPath: every offline verb completes over a path that comes and goes, or refuses.
// Then the same verb over a good path completes, as if nothing had happened.
func TestVerbsOverBadPath(t *testing.T) {
	eachScene(t, func(t *testing.T, tc sceneCase, seed uint64) {
		r := seeded(t, 600+seed)
		s := newScene(t, tc.p, 700+seed)
		s.opts.Mark = tc.mark
		set := cloneDisks(s.disks)
		if err := s.drive(set, false, s.opts); err != nil {
			t.Fatal(err)
		}
		// These are the states after a cut at some write of each of them.
		var states [][]*cutDisk
		for _, from := range [][]*cutDisk{s.disks, set} {
			states = append(states, from)
			plain := len(states) > 1
			writes := 0
			count := cloneDisks(from)
			for _, d := range count {
				d.before = func(*cutDisk, memWrite) { writes++ }
			}
			if err := s.drive(count, plain, s.opts); err != nil {
				t.Fatal(err)
			}
			for range 4 {
				states = append(states, s.cutAt(from, plain, r.IntN(writes)))
			}
		}
		well, refused := 0, 0
		for i, from := range states {
			for _, plain := range []bool{false, true} {
				count := &outage{failing: func(int, bool) syscall.Errno { return 0 }}
				if err := s.driveDevices(count.over(asDevices(cloneDisks(from)), true), plain,
					s.opts); err != nil {
					t.Fatal(err)
				}
				outages := []*outage{weak(r.Uint64()), weak(r.Uint64())}
				for range 2 {
					all := outagesAt(1+r.IntN(count.n+1), r)
					for range 5 {
						outages = append(outages, all[r.IntN(len(all))])
					}
				}
				for _, o := range outages {
					disks := cloneDisks(from)
					what := fmt.Sprintf("state %d, to plain %v: %s", i, plain, o.name)
					err := s.driveDevices(o.over(asDevices(disks), r.IntN(2) == 0), plain, s.opts)
					if err != nil {
						refused++
						refusal(t, what, err)
						s.end(disks, plain, what+", and later")
						continue
					}
					well++
					if plain {
						s.isPlain(disks, what)
					} else {
						s.isSet(disks, what)
					}
				}
			}
		}
		t.Logf("%d well, %d refused", well, refused)
	})
}

// cutAt drives a copy of disks to a goal and returns what they were before a write.
func (s *scene) cutAt(disks []*cutDisk, plain bool, at int) []*cutDisk {
	live := cloneDisks(disks)
	var out []*cutDisk
	n := 0
	for _, d := range live {
		d.before = func(*cutDisk, memWrite) {
			if n++; n == at+1 {
				out = cloneDisks(live)
				for _, c := range out {
					c.settle(fateKept, s.r)
				}
			}
		}
	}
	if err := s.drive(live, plain, s.opts); err != nil {
		s.t.Fatal(err)
	}
	return out
}

// TestRepairOverBadPath: repair, restore, backup, check and dump, of good sets and of damaged ones.
// What could be read before can be read after.
func TestRepairOverBadPath(t *testing.T) {
	r := seeded(t, 503)
	for _, tc := range worlds {
		w := ran(t, tc.p, 504, 25)
		want, err := tableOf(devices(w.disks))
		if err != nil {
			t.Fatal(err)
		}
		img, err := Load(devices(w.disks))
		if err != nil {
			t.Fatal(err)
		}
		b, err := img.Backup(1)
		if err != nil {
			t.Fatal(err)
		}
		torn := clones(w.disks) // a set with something to repair
		for _, p := range w.metadataPlaces() {
			if p.what == "free slot of mirror 0" || p.what == "newest header of mirror 1" {
				spoilts[3].do(torn[p.device], p)
			}
		}
		empty := clones(w.disks) // one that only a backup helps
		noCheckpoints(w, empty)
		verbs := []struct {
			name  string
			disks []*memDisk
			run   func(devs []Device) error
		}{
			{"check", w.disks, func(devs []Device) error { _, err := Check(devs); return err }},
			{"dump", w.disks, func(devs []Device) error {
				d, err := Dump(devs)
				if err == nil && (d.Error != "" || !slices.Equal(entriesOf(d), want)) {
					err = errors.New(d.Error + ": another table")
				}
				return err
			}},
			{"backup", w.disks, func(devs []Device) error {
				img, err := Load(devs)
				if err != nil {
					return err
				}
				b, err := img.Backup(1)
				if err == nil && !slices.Equal(listed(b.table), want) {
					err = errors.New("another backup")
				}
				return err
			}},
			{"repair", w.disks, repairOver}, {"repair", torn, repairOver},
			{"restore", w.disks, func(devs []Device) error { return restoreOver(devs, b) }},
			{"restore", empty, func(devs []Device) error { return restoreOver(devs, b) }},
			{"salvage", w.disks, func(devs []Device) error { return restoreOver(devs, nil) }},
			{"search", w.disks, func(devs []Device) error {
				_, err := SearchSuperblock(devs[0], func(int64) error { return nil })
				return err
			}},
		}
		for _, v := range verbs {
			count := &outage{failing: func(int, bool) syscall.Errno { return 0 }}
			if err := v.run(count.over(devices(clones(v.disks)), true)); err != nil {
				t.Fatalf("%s: %s: %v", tc.name, v.name, err)
			}
			outages := []*outage{weak(r.Uint64()), weak(r.Uint64()), weak(r.Uint64()),
				weak(r.Uint64())}
			for range 6 {
				all := outagesAt(1+r.IntN(count.n+1), r)
				for range 4 {
					outages = append(outages, all[r.IntN(len(all))])
				}
			}
			for _, o := range outages {
				disks := clones(v.disks)
				what := fmt.Sprintf("%s: %s: %s", tc.name, v.name, o.name)
				if err := v.run(o.over(devices(disks), r.IntN(2) == 0)); err != nil {
					refusal(t, what, err)
					for _, d := range disks {
						if err := d.Sync(); err != nil {
							t.Fatal(err)
						}
					}
					// The verb is repeated over a path that works again. ErrBackupStale:
					// everything was done except the last check.
					if err := v.run(devices(disks)); err != nil && !errors.Is(err, ErrBackupStale) {
						t.Fatalf("%s: and later: %v", what, err)
					}
				}
				if v.name == "search" {
					continue
				}
				if have, err := tableOf(devices(disks)); err != nil || !slices.Equal(want, have) {
					t.Fatalf("%s: afterwards: %v, %s", what, err, diff(want, have))
				}
			}
		}
	}
}

func repairOver(devs []Device) error {
	plan, err := PlanRepair(devs, nil)
	if err != nil {
		return err
	}
	after, err := plan.Run(RunOptions{Now: 9, Session: 9})
	if err == nil && !after.OK() {
		err = errors.New(after.String())
	}
	return err
}

func restoreOver(devs []Device, b *Backup) error {
	plan, err := PlanSalvage(devs)
	if b != nil {
		plan, err = PlanRestore(devs, b)
	}
	if err != nil {
		return err
	}
	after, err := plan.Run(RunOptions{Now: 9, Session: 9})
	if err == nil && !after.OK() {
		err = errors.New(after.String())
	}
	return err
}

// entriesOf is the table of a dump.
func entriesOf(d *DumpResult) (all []Entry) {
	_ = d.Each(func(e Entry) error { all = append(all, e); return nil }) // which never fails
	return all
}

// TestPathBlamesNoPlace: while a set is served and the path to its disk fails, for a while and at
// any moment, nothing that is durable is lost, no place is called bad, no mirror moves, and no copy
// of a superblock is written over only because it could not be reached. When the path is back
// everything is good, with nothing left to repair.
func TestPathBlamesNoPlace(t *testing.T) {
	lost := 0
	for _, tc := range worlds {
		for seed := range seeds(3) {
			w := newWorld(t, seeded(t, 7000+seed), tc.p)
			for !w.opened {
				w.step()
			}
			begun := w.c.Status()
			var errno error
			left := 0
			w.away = func(op Op) error {
				if left == 0 && w.r.IntN(60) == 0 {
					left = 1 + w.r.IntN(30)
					errno = []error{syscall.ENOLINK, syscall.ENODEV, syscall.ETIMEDOUT,
						syscall.ENOMEM, syscall.EAGAIN, fmt.Errorf("wrapped: %w",
							syscall.ENXIO)}[w.r.IntN(6)]
				}
				if left == 0 {
					return nil
				}
				left--
				return errno
			}
			for i := range steps(900) {
				w.step()
				if i%11 == 0 {
					w.find(w.cut(), "cut")
				}
				if i%17 == 0 {
					w.findLatent()
				}
			}
			lost += w.stats.unknown
			w.away = nil
			w.settle()
			w.commits(3 * backoffRecords)
			for i := 0; i < 40*backoffRecords && !w.healthy(); i++ {
				w.commit()
				w.settle()
			}
			if _, err := w.c.Checkpoint(); err != nil {
				t.Fatal(err)
			}
			w.settle()
			st := w.c.Status()
			if !w.healthy() || st.BadSuperblocks > 0 {
				t.Fatalf("%s, seed %d: it does not work again: %+v", tc.name, seed, st)
			}
			for i, m := range st.Mirrors {
				if m.Start != begun.Mirrors[i].Start || m.Device != begun.Mirrors[i].Device {
					t.Errorf("%s, seed %d: mirror %d moved to %s from %s", tc.name, seed, i,
						m.Location, begun.Mirrors[i].Location)
				}
			}
			if len(w.c.troubledPlaces) > 0 {
				t.Errorf("%s, seed %d: places are blamed: %+v", tc.name, seed, w.c.troubledPlaces)
			}
			w.find(w.disks, "end")
			w.check(SeverityInfo)
		}
	}
	if lost == 0 {
		t.Error("no record ever failed")
	}
}

// TestRetry: how long, and how often, each class is retried.
func TestRetry(t *testing.T) {
	p := RetryLimits{Resources: 30 * time.Second, Path: 3 * time.Second}
	for errno, want := range map[syscall.Errno]time.Duration{
		syscall.EIO: 0, syscall.ENODATA: 0, syscall.EREMOTEIO: 0,
		syscall.ENOMEM: p.Resources, syscall.EAGAIN: p.Resources, syscall.EBUSY: p.Resources,
		syscall.ENOLINK: p.Path, syscall.ENODEV: p.Path, syscall.EROFS: p.Path,
	} {
		var r Retry
		now, tries := int64(time.Hour), 0
		begun := now
		var last time.Duration
		for {
			pause, again := r.Next(-int32(errno), now, p)
			if !again {
				break
			}
			if left := want - time.Duration(now-begun); pause <= 0 || pause < last && pause < left {
				t.Fatalf("%v: a pause of %v after one of %v", errno, pause, last)
			}
			last = pause
			now += int64(pause)
			tries++
		}
		if got := time.Duration(now - begun); got != want {
			t.Errorf("%v: tried for %v, want %v", errno, got, want)
		}
		if tries > 200 {
			t.Errorf("%v: %d tries", errno, tries)
		}
	}
	if n := testing.AllocsPerRun(100, func() {
		var r Retry
		r.Next(int32(syscall.ENOMEM), 1, p)
	}); n > 0 {
		t.Errorf("%v allocations where memory is short", n)
	}
}

// TestCommitsWithoutSpareDevice: while a spare device is missing, changes become durable, and the
// superblocks of the backing say that its mirror misses them. When it is back, everything is good.
func TestCommitsWithoutSpareDevice(t *testing.T) {
	w := single(t, pairParams(512))
	w.settle()
	w.commits(4)
	before := w.stats
	w.away = func(op Op) error {
		if op.Device == 1 {
			return syscall.ENODEV
		}
		return nil
	}
	w.commits(10)
	if st := w.c.Status(); w.stats.unknown != before.unknown || w.stats.dropped != before.dropped ||
		w.stats.durable != before.durable+10 || st.Suspended {
		t.Fatalf("%+v, were %+v; %+v", w.stats, before, st)
	}
	w.find(w.disks, "without the spare device")
	w.away = nil
	for i := 0; i < 40*backoffRecords && !w.healthy(); i++ {
		w.commit()
		w.settle()
	}
	if _, err := w.c.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	w.settle()
	if st := w.c.Status(); !w.healthy() || st.BadSuperblocks > 0 {
		t.Errorf("it does not work again: %+v", st)
	}
	w.check(SeverityInfo)
}
