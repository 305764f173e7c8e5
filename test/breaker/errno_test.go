package breaker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ublkremap/remap"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

const (
	diskMiB = 48
	// dataSize is how much of a device the ledger uses.
	dataSize = 8 << 20
	unit     = 4096
)

// faulty is a disk of which some bytes can be made to fail.
type faulty interface {
	// disk is the path of the block device.
	disk() string
	// fail makes reads or writes of an extent fail from now on, as the case says; cure ends that.
	fail(t testing.TB, c errnoCase, write bool, e rig.Extent)
	cure(t testing.TB)
}

// poke writes a control file.
func poke(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0); err != nil {
		t.Fatalf("%s: %q: %v", file, text, err)
	}
}

// sensed is a SCSI disk that answers with sense data. The module's injection is for a
// whole unit, so the disk has two units with the same contents: a dm table takes the
// sectors that fail from the second one.
type sensed struct {
	dm    *vmtest.DM
	units [2]string // paths
	rules string    // control file of the second unit
}

func newSensed(t testing.TB) *sensed {
	t.Helper()
	v := &sensed{}
	first := newScsi(t, "max_luns=2")
	second := strings.TrimSuffix(first.HCTL, "0") + "1"
	v.units = [2]string{first.Path, scsiPath(t, second)}
	v.rules = filepath.Join("/sys/kernel/debug/scsi_debug", second, "error")
	v.dm = vmtest.NewDM(t, v.table())
	return v
}

// newScsi makes a SCSI disk that answers without a delay. The module's default is a jiffy for each
// command.
func newScsi(t testing.TB, params ...string) *vmtest.ScsiDebug {
	t.Helper()
	return vmtest.NewScsiDebug(t, append([]string{fmt.Sprintf("dev_size_mb=%d", diskMiB),
		"delay=0"}, params...)...)
}

// scsiPath waits for the block device of a SCSI address.
func scsiPath(t testing.TB, hctl string) string {
	t.Helper()
	for deadline := time.Now().Add(
		rig.Limit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		found, _ := filepath.Glob("/sys/bus/scsi/devices/" + hctl + "/block/*")
		if len(found) == 1 {
			path := "/dev/" + filepath.Base(found[0])
			if _, err := os.Stat(path); err == nil {
				return path
			}
		}
	}
	t.Fatalf("no SCSI disk at %s", hctl)
	return ""
}

func (v *sensed) table(bad ...rig.Extent) string {
	return rig.PieceTable(diskMiB<<20, v.units[0], v.units[1], bad...)
}

func (v *sensed) disk() string { return v.dm.Path }

const (
	scsiRead  = 0x28
	scsiWrite = 0x2a
)

func (v *sensed) fail(t testing.TB, c errnoCase, write bool, e rig.Extent) {
	t.Helper()
	op := scsiRead
	if write {
		op = scsiWrite
	}
	v.dm.Swap(t, v.table(e))
	poke(t, v.rules, fmt.Sprintf("2 1000000 %#x %s", op, c.sense))
}

func (v *sensed) cure(t testing.TB) {
	t.Helper()
	for _, op := range []int{scsiRead, scsiWrite} {
		// There need not be such a rule.
		_ = os.WriteFile(v.rules, fmt.Appendf(nil, "- 2 %#x", op), 0)
	}
	v.dm.Swap(t, v.table())
}

// errnoCase is an errno and a way to get it.
type errnoCase struct {
	name  string
	made  string
	errno syscall.Errno
	// sense is, for a SCSI disk, what a command ends with: host byte, driver byte, status,
	// sense key, ASC, ASCQ.
	sense string
	// always: also without UBLK_REMAP_FULL.
	always bool
}

// plainErrnos are what a driver can answer.
func plainErrnos() []errnoCase {
	var out []errnoCase
	for _, e := range []syscall.Errno{
		syscall.ENODATA, syscall.EREMOTEIO, syscall.EIO,
		syscall.EILSEQ,
		syscall.ENOMEM, syscall.EBUSY, syscall.EAGAIN,
		syscall.ENOLINK, syscall.ETIMEDOUT, syscall.ENODEV, syscall.ETIME, syscall.EBADE,
		syscall.EOPNOTSUPP, syscall.EINVAL,
		syscall.ENOSPC, syscall.EOVERFLOW, syscall.ETOOMANYREFS,
	} {
		c := errnoCase{name: errnoName(e), made: "a driver (ublk) that answers so", errno: e}
		switch e {
		case syscall.ENODATA, syscall.EIO, syscall.EILSEQ, syscall.ENOMEM, syscall.ENOLINK,
			syscall.ENOSPC:
			c.always = true
		}
		out = append(out, c)
	}
	return out
}

// senses are the answers of a SCSI disk, each with the errno that the kernel makes of it:
// scsi_check_sense and scsi_result_to_blk_status in drivers/scsi/scsi_error.c and scsi_lib.c.
func senses() []errnoCase {
	return []errnoCase{
		{"medium", "scsi_debug, sense 3/11/00, unrecovered read error", syscall.ENODATA,
			"0 0 0x2 0x3 0x11 0x0", true},
		{"write-error", "scsi_debug, sense 3/0c/02, write error", syscall.EIO,
			"0 0 0x2 0x3 0xc 0x2", false},
		{"hardware", "scsi_debug, sense 4/44/00, internal target failure", syscall.EREMOTEIO,
			"0 0 0x2 0x4 0x44 0x0", true},
		{"range", "scsi_debug, sense 5/21/00, LBA out of range", syscall.EREMOTEIO,
			"0 0 0x2 0x5 0x21 0x0", false},
		{"protection", "scsi_debug, sense b/10/01, guard check failed", syscall.EILSEQ,
			"0 0 0x2 0xb 0x10 0x1", false},
		{"space", "scsi_debug, sense 7/27/07, space allocation failed", syscall.ENOSPC,
			"0 0 0x2 0x7 0x27 0x7", false},
		{"reservation", "scsi_debug, status reservation conflict", syscall.EBADE, "0 0 0x18 0 0 0",
			false},
		{"transport", "scsi_debug, host byte DID_TRANSPORT_FAILFAST", syscall.ENOLINK,
			"0xf 0 0 0 0 0", true},
		{"no-connect", "scsi_debug, host byte DID_NO_CONNECT", syscall.EIO, "0x1 0 0 0 0 0", false},
		{"duration", "scsi_debug, sense b/2e/02, command timeout", syscall.ETIME,
			"0 0 0x2 0xb 0x2e 0x2", false},
	}
}

// TestErrno makes sectors fail with each errno. The server must do what the errno's class in
// remap.Classify says.
func TestErrno(t *testing.T) {
	vmtest.NeedUblk(t)
	t.Run("driver", func(t *testing.T) { testErrnos(t, newServed(t), plainErrnos()) })
	t.Run("scsi", func(t *testing.T) { testErrnos(t, newSensed(t), senses()) })
}

func testErrnos(t *testing.T, v faulty, cases []errnoCase) {
	rig.Guard(t, 6*time.Minute)
	s := rig.Create(t, v.disk(), "", "--spare", "1MiB")
	lay := rig.LayoutOf(t, v.disk())
	s.Start(t, "--queues", "1", "--resource-time", "10m")
	l := newLedger(t, s.Dev, dataSize)
	for i, c := range cases {
		if !c.always && !vmtest.Full() {
			continue
		}
		t.Run(c.name, func(t *testing.T) { testErrno(t, s, l, v, lay.Head+int64(i)<<18, c) })
	}
	recoverAll(t, s, l)
}

// errnoClass returns the class of remap.Classify, except for errnos that no server ever sees,
// because io_uring itself retries the request for as long as it takes: EAGAIN, and EOPNOTSUPP on
// some kernels (io_rw_should_reissue and its callers, io_uring/rw.c; seen on 7.3).
func errnoClass(errno syscall.Errno, seen bool) remap.Class {
	if errno == syscall.EOPNOTSUPP && !seen {
		return remap.ClassResource
	}
	return remap.Classify(int32(errno))
}

// testErrno uses 256 KiB at the offset at.
func testErrno(t *testing.T, s *rig.Set, l *ledger, v faulty, at int64, c errnoCase) {
	raw := rig.Open(t, v.disk())
	defer raw.Close()
	class := remap.Classify(int32(c.errno))
	if c.errno == syscall.EOPNOTSUPP {
		// Find out whether the server sees the errno.
		v.fail(t, c, true, rig.Extent{Start: at, Length: unit})
		done := make(chan error, 1)
		go func() { done <- l.write(at, unit) }()
		err, answered := waitInFlight(t, s, done)
		v.cure(t)
		if !answered {
			err = <-done
		}
		class = errnoClass(c.errno, answered)
		if answered && err != c.errno || !answered && err != nil {
			t.Errorf("a write: %s, answered by the disk's own error: %v", errnoName(err), answered)
		}
	}
	before := s.Status(t)

	// Two units fail when they are written.
	bad := rig.Extent{Start: at + 64<<10, Length: 2 * unit}
	v.fail(t, c, true, bad)
	probe := rig.Aligned(sector)
	if err := raw.Read(probe, bad.Start); err != nil {
		t.Fatalf("read of sectors that fail when they are written: %v", err)
	}
	if class == remap.ClassResource {
		// io_uring and the block layer may try again for as long as it takes.
	} else if err := raw.Write(probe, bad.Start); err != c.errno {
		t.Fatalf("the disk's own errno is %s, want %s", errnoName(err), errnoName(c.errno))
	}
	var answers []string
	if class == remap.ClassResource {
		done := make(chan error, 1)
		go func() { done <- l.write(bad.Start, unit) }()
		if err, answered := waitInFlight(t, s, done); answered {
			t.Fatalf("the request was answered: %s", errnoName(err))
		}
		v.cure(t)
		if err := <-done; err != nil {
			t.Errorf("write: %v; it was to be tried again until the disk took it", err)
		}
		answers = append(answers, "writes wait, then succeed")
	} else {
		for _, e := range []rig.Extent{{Start: bad.Start, Length: unit}, {Start: bad.Start + unit,
			Length: unit}, {Start: at + 32<<10, Length: 64 << 10}} {
			err := l.write(e.Start, e.Length)
			switch {
			case class == remap.ClassMedium && err != nil:
				t.Errorf("write of %s: %v; it was to be healed", e, err)
			case class == remap.ClassPath && err != c.errno:
				t.Errorf("write of %s: %s, want the disk's own %s", e, errnoName(err),
					errnoName(c.errno))
			}
		}
		if class == remap.ClassPath {
			answers = append(answers, "writes: "+errnoName(c.errno))
		} else {
			answers = append(answers, "writes succeed")
		}
	}
	for _, off := range []int64{bad.Start - unit, bad.End(), at + 128<<10} {
		if err := l.write(off, unit); err != nil {
			t.Errorf("write beside them: %v", err)
		}
	}
	written := s.Status(t)
	used, want := written.Spare.Used-before.Spare.Used, int64(0)
	if class == remap.ClassMedium {
		want = 2
	}
	gone := before.Spare.Free - written.Spare.Free - used
	if used != want || gone != 0 || written.Remaps-before.Remaps != want ||
		written.Breaker.State != "closed" ||
		(written.Errors.Write > before.Errors.Write) != (class == remap.ClassMedium) ||
		(written.Errors.Transport > before.Errors.Transport) != (class == remap.ClassPath) {
		t.Errorf("after the writes: %+v\nbefore: %+v\nwant %d spare units used", written, before,
			want)
	}
	v.cure(t)

	// One unit, elsewhere, fails when it is read.
	there := rig.Extent{Start: at + 192<<10, Length: unit}
	v.fail(t, c, false, there)
	if class == remap.ClassResource {
		done := make(chan error, 1)
		go func() { done <- l.read(t, there.Start, unit) }()
		if err, answered := waitInFlight(t, s, done); answered {
			t.Fatalf("the request was answered: %s", errnoName(err))
		}
		v.cure(t)
		if err := <-done; err != nil {
			t.Errorf("read: %v; it was to be tried again", err)
		}
		answers = append(answers, "reads wait, then succeed")
	} else {
		if err := l.read(t, there.Start, unit); err != c.errno {
			t.Errorf("read: %s, want the disk's own %s", errnoName(err), errnoName(c.errno))
		}
		answers = append(answers, "reads: "+errnoName(c.errno))
		if err := l.read(t, there.End(), unit); err != nil {
			t.Errorf("read beside it: %v", err)
		}
	}
	st := s.Status(t)
	if st.Spare.Used != written.Spare.Used || st.Breaker.State != "closed" ||
		(st.Pending > written.Pending) != (class == remap.ClassMedium) {
		t.Errorf("after the reads: %+v\nbefore: %+v", st, written)
	}
	v.cure(t)
	if class == remap.ClassMedium {
		// The block is pending, so the next write does not trust it.
		if err := l.write(there.Start, unit); err != nil {
			t.Errorf("write over pending blocks: %v", err)
		}
		if now := s.Status(t); now.Spare.Used != st.Spare.Used+1 || now.Pending != written.Pending {
			t.Errorf("after a write over pending blocks: %+v\nbefore: %+v", now, st)
		}
	}
	row{
		fault: "a few sectors", made: c.made, errno: errnoName(c.errno),
		answer: join(answers, "; "),
		spares: fmt.Sprintf("%d for 2 bad units", used), breaker: written.Breaker.State,
		after: "nothing",
	}.add()
}

// waitInFlight waits until the server has a request, and a while longer. If the request is answered
// before that, it returns the answer.
func waitInFlight(t testing.TB, s *rig.Set, done <-chan error) (err error, answered bool) {
	t.Helper()
	for polls, deadline := 0, time.Now().Add(
		rig.Limit); polls < 5; time.Sleep(10 * time.Millisecond) {
		if reads, writes := rig.InFlight(t, s.Dev); reads+writes > 0 {
			polls++
			s.Status(t)
		}
		if len(done) > 0 {
			return <-done, true
		}
		if time.Now().After(deadline) {
			t.Fatal("the request has not reached the server")
		}
	}
	return nil, false
}

// recoverAll is called when the fault is over. It closes the breaker by resume if that is
// necessary. Then everything must read, take writes and be there after a new start. It returns what
// was needed.
func recoverAll(t testing.TB, s *rig.Set, l *ledger) string {
	t.Helper()
	how := "nothing"
	if s.Status(t).Breaker.State != "closed" {
		how = "`resume`"
		rig.Remap(t, "resume", s.Dev).Want(t, 0)
		if st := s.Status(t); st.Breaker.State != "closed" {
			t.Errorf("after resume: %+v", st.Breaker)
		}
	}
	unreadable := l.verify(t)
	st := s.Status(t)
	if unreadable > st.Pending+st.Lost {
		t.Errorf("%d sectors do not read, %d are pending and %d lost", unreadable, st.Pending,
			st.Lost)
	}
	if unreadable > 0 {
		how += fmt.Sprintf("; %d sectors to be written anew", unreadable)
	}
	for off := int64(0); off < l.size(); off += 1 << 20 {
		if err := l.write(off, 1<<20); err != nil {
			t.Errorf("write when the fault is over: %v", err)
		}
	}
	if n := l.verify(t); n > 0 {
		t.Errorf("%d sectors do not read although all were written when the fault was over", n)
	}
	if err := l.dev.Flush(); err != nil {
		t.Errorf("flush: %v", err)
	}
	l.dev.Close()
	s.Stop(t)
	s.Check(t)
	s.Start(t)
	l.reopen(t, s.Dev)
	if n := l.verify(t); n > 0 {
		t.Errorf("%d sectors do not read after a new start", n)
	}
	l.dev.Close()
	s.Stop(t)
	s.Check(t)
	return how
}
