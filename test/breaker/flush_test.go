package breaker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/internal/blockdev"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// flushRun is a device over a disk without FUA whose flushes can be made to fail.
type flushRun struct {
	t    *testing.T
	disk *volatile
	set  *rig.Set
	dev  *rig.Direct
	at   int64 // where the next bytes are written
}

// TestFailedFlush lets single flushes of a disk without FUA fail, one after the other, for every
// origin: users, heals, moves, records, checkpoints, a start, a stop and an upgrade. Each failed
// flush loses what was written before it and not flushed. The user's next flush must report the
// failure, and it must count as no other kind of error.
func TestFailedFlush(t *testing.T) {
	vmtest.NeedUblk(t)
	rig.Guard(t, 4*time.Minute)
	v := newVolatile(t)
	for name, want := range map[string]string{"fua": "0", "write_cache": "write back"} {
		got, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(v.path), "queue", name))
		if err != nil || strings.TrimSpace(string(got)) != want {
			t.Fatalf("the test's own disk: %s is %q (%v), want %q", name, got, err, want)
		}
	}
	r := &flushRun{t: t, disk: v, set: rig.Create(t, v.path, "", "--spare", "2MiB"), at: 4 << 20}
	r.set.Start(t, "--queues", "2")
	r.dev = rig.Open(t, r.set.Dev)

	r.user()
	r.move()
	r.heal()
	r.upgrade()
	r.killed()
	r.stopped()
}

// lost writes o and flushes it, then writes A over it without a flush. It returns the place.
func (r *flushRun) lost() int64 {
	r.t.Helper()
	r.at += page
	r.put(r.at, 'o')
	if err := r.dev.Flush(); err != nil {
		r.t.Fatalf("a flush of a disk that is well: %v", err)
	}
	r.put(r.at, 'A')
	return r.at
}

func (r *flushRun) put(off int64, c byte) {
	r.t.Helper()
	if err := r.dev.Write(filled(c), off); err != nil {
		r.t.Fatalf("write at %d: %v", off, err)
	}
}

// holds returns what a page holds.
func (r *flushRun) holds(off int64) string {
	r.t.Helper()
	b := rig.Aligned(page)
	if err := r.dev.Read(b, off); err != nil {
		r.t.Fatalf("read at %d: %v", off, err)
	}
	return string(b[:1])
}

func filled(c byte) []byte {
	b := rig.Aligned(page)
	for i := range b {
		b[i] = c
	}
	return b
}

// told makes sure that the next flush fails, that the one after it does not, and that nothing else
// has happened.
func (r *flushRun) told(what string) {
	r.t.Helper()
	if err := r.dev.Flush(); !errors.Is(err, syscall.EIO) {
		r.t.Errorf("%s: a flush failed, and the next one of the user says %v", what, err)
	}
	if err := r.dev.Flush(); err != nil {
		r.t.Errorf("%s: told twice: %v", what, err)
	}
	st := r.set.Status(r.t)
	if st.Breaker.State != "closed" {
		r.t.Errorf("%s: breaker %+v", what, st.Breaker)
	}
	for _, m := range st.Metadata.Mirrors {
		if m.State != "good" {
			r.t.Errorf("%s: mirror %+v", what, m)
		}
	}
}

// user: a flush, and a write with FUA.
func (r *flushRun) user() {
	r.t.Helper()
	at := r.lost()
	r.disk.failFlush(1)
	if err := r.dev.Flush(); !errors.Is(err, syscall.EIO) {
		r.t.Errorf("the flush that failed: %v", err)
	}
	if got := r.holds(at); got != "o" {
		r.t.Fatalf("the test's own disk did not drop its cache: %s", got)
	}
	if err := r.dev.Flush(); err != nil {
		r.t.Errorf("told twice: %v", err)
	}
	at = r.lost()
	r.disk.failFlush(1)
	if err := r.durable(at+page, 'B'); !errors.Is(err, syscall.EIO) {
		r.t.Errorf("the FUA write whose flush failed: %v", err)
	}
	r.at += page
	r.told("FUA write")
	if st := r.set.Status(r.t); st.Remaps != 0 || st.Pending != 0 || st.Errors.Write != 0 ||
		st.Errors.Flush != 2 {
		r.t.Errorf("a failed flush was taken for something else: %d remaps, %d pending, errors %+v",
			st.Remaps, st.Pending, st.Errors)
	}
}

// durable writes with RWF_DSYNC.
func (r *flushRun) durable(off int64, c byte) error {
	fd, err := unix.Open(r.set.Dev, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Pwritev2(fd, [][]byte{filled(c)}, off, unix.RWF_DSYNC)
	return err
}

// each lets the first flush fail that an operation needs, then the second, and so on until the
// operation needs no more flushes.
func (r *flushRun) each(what string, f func(nth int)) {
	r.t.Helper()
	for nth := 1; ; nth++ {
		r.lost()
		before := r.disk.failures()
		r.disk.failFlush(nth)
		f(nth)
		r.disk.failFlush(0)
		if r.disk.failures() == before {
			if nth == 1 {
				r.t.Errorf("%s needs no flush", what)
			}
			return
		}
		r.told(fmt.Sprintf("%s, flush %d", what, nth))
	}
}

// move: the data of a relocation, its record on each mirror.
func (r *flushRun) move() {
	r.t.Helper()
	used := r.set.Status(r.t).Spare.Used
	block := r.set.Status(r.t).BlockSize
	r.each("remap add", func(nth int) {
		at := 8<<20 + int64(nth)*page
		r.put(at, 'm')
		// it may fail or not
		_ = rig.Remap(r.t, "remap", "add", r.set.Dev, fmt.Sprintf("%d+%d", at/block, page/block))
		if got := r.holds(at); got != "m" && got != "\x00" {
			r.t.Errorf("a block that was moved holds %q", got)
		}
	})
	if st := r.set.Status(r.t); st.Spare.Used <= used {
		r.t.Errorf("spare units %+v", st.Spare)
	}
}

// heal: the data in the spare unit, its record on each mirror.
func (r *flushRun) heal() {
	r.t.Helper()
	r.each("a heal", func(nth int) {
		at := 16<<20 + int64(nth)*page
		r.disk.bad.Store(&rig.Extent{Start: at, Length: page})
		err := r.dev.Write(filled('h'), at)
		r.disk.bad.Store(nil)
		switch {
		case err == nil:
			if got := r.holds(at); got != "h" {
				r.t.Errorf("a write that was healed, and acknowledged, reads %q", got)
			}
		case !errors.Is(err, syscall.EIO):
			r.t.Errorf("heal: %v", err)
		}
	})
}

// upgrade: a failure that was not reported is handed over to the new server.
func (r *flushRun) upgrade() {
	r.t.Helper()
	r.lost()
	r.disk.failFlush(1)
	_ = rig.Remap(r.t, "remap", "add", r.set.Dev, "60000")
	r.set.LetDie()
	rig.Remap(r.t, "upgrade", r.set.Dev).Want(r.t, 0)
	r.told("upgrade")
}

// killed: the server that follows a killed one flushes first, and reports it if that fails.
func (r *flushRun) killed() {
	r.t.Helper()
	r.lost()
	r.set.Kill(r.t)
	r.disk.failFlush(1)
	r.set.Start(r.t)
	r.told("a start")
}

// stopped: there is no next flush.
func (r *flushRun) stopped() {
	r.t.Helper()
	for nth := 1; ; nth *= 2 {
		r.put(24<<20, 's') // not flushed
		// so that there is a checkpoint to be written
		_ = rig.Remap(r.t, "remap", "add", r.set.Dev, fmt.Sprint(70000+8*nth))
		r.dev.Close()
		before := r.disk.failures()
		r.disk.failFlush(nth)
		r.set.LetDie()
		res := rig.Remap(r.t, "stop", r.set.Dev)
		r.disk.failFlush(0)
		want := 0
		if r.disk.failures() > before {
			want = 1
		}
		if res.Code != want || want == 1 && !strings.Contains(res.Stderr, "flush") {
			r.t.Errorf("stop, flush %d: want exit code %d and the reason\n%s", nth, want, res)
		}
		r.set.Check(r.t)
		if want == 0 {
			r.set.Dev = ""
			break
		}
		r.set.Start(r.t)
		r.dev = rig.Open(r.t, r.set.Dev)
	}
}

// TestFUAOfDeviceMapper: a device-mapper device over a disk without FUA has none, whatever it
// reports. The kernel makes two operations of a FUA write at the disk.
func TestFUAOfDeviceMapper(t *testing.T) {
	vmtest.NeedUblk(t)
	without, with := newVolatile(t), newServed(t)
	half := diskMiB << 20 / 1024
	table := func(first, second string) string {
		return fmt.Sprintf("0 %d linear %s 0\n%d %d linear %s 0\n", half, first, half, half, second)
	}
	mixed := vmtest.NewDM(t, table(without.path, with.path))
	all := vmtest.NewDM(t, table(with.path, with.path))
	for path, want := range map[string]bool{without.path: false, with.path: true, mixed.Path: false,
		all.Path: true} {
		d, err := blockdev.Open(t.Context(), path, blockdev.Options{ReadOnly: true, Shared: true})
		if err != nil {
			t.Fatal(err)
		}
		says, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/queue/fua", unix.Major(d.Rdev()),
			unix.Minor(d.Rdev())))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s says FUA %s", path, says)
		if got := d.Geometry().FUA; got != want {
			t.Errorf("%s has FUA: %v, want %v", path, got, want)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestStartThatIsNotDurable: a server does not begin on a disk that does not take the new
// epoch, or whose flushes fail: the start says so, and leaves no device.
func TestStartThatIsNotDurable(t *testing.T) {
	vmtest.NeedUblk(t)
	rig.Guard(t, 2*time.Minute)
	v := newVolatile(t)
	s := rig.Create(t, v.path, "", "--spare", "2MiB")
	devices := func() int {
		found, err := filepath.Glob("/dev/ublkb*")
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	before := devices()
	refused := func(how, says string) {
		t.Helper()
		res := rig.Remap(t, "start", v.path)
		if res.Code == 0 || !strings.Contains(res.Stderr, says) || devices() != before {
			t.Errorf("%s: %d devices, were %d\n%s", how, devices(), before, res)
		}
	}
	v.bad.Store(&rig.Extent{Length: diskMiB << 20})
	refused("no write goes well", "does not take the start")
	v.bad.Store(nil)
	v.failFlushes(true)
	refused("no flush goes well", "flush")
	v.failFlushes(false)
	s.Start(t)
	s.Stop(t)
	s.Check(t)
}
