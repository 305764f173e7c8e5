package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// upgradeLine is what `upgrade` prints.
var upgradeLine = regexp.MustCompile(
	`^(/dev/ublkb\d+): (\S+) \(pid (\d+)\) -> (\S+) \(pid (\d+)\), I/O paused for (\d+) ms$`)

// versionOf is what a program calls itself.
func versionOf(t testing.TB, program string) string {
	t.Helper()
	var v struct {
		Version string `json:"version"`
	}
	rig.Parse(t, rig.Launch(t, program, "version", "--json").Wait(t, rig.Limit), &v)
	return v.Version
}

// otherVersion makes a second build of the program under test: the same but for
// the version, which is what -X main.version puts into the file.
func otherVersion(t testing.TB) (program, version string) {
	t.Helper()
	was := versionOf(t, vmtest.Binary(t))
	if len(was) < 5 || was == "unknown" {
		t.Fatalf("a program without a version of its own (%q): build it with make", was)
	}
	text, err := os.ReadFile(vmtest.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	version = "z" + was[1:]
	text = bytes.ReplaceAll(text, []byte(was), []byte(version))
	program = filepath.Join(t.TempDir(), "ublk-remap")
	if err := os.WriteFile(program, text, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := versionOf(t, program); got != version {
		t.Fatalf("the other build says it is %q, want %q", got, version)
	}
	return program, version
}

// busySet is a bad disk with a mounted file system, a tree of files and fio at
// work in it.
type busySet struct {
	*rig.Set
	rng  *rand.Rand
	dir  string
	tree rig.Tree
	fio  *rig.Fio
}

// newBusySet starts all of it.
func newBusySet(t testing.TB, w way, args ...string) *busySet {
	t.Helper()
	rng := rig.Random(t)
	d := rig.NewDisk(t, rig.KindLoop, diskMiB, 512)
	s := create(t, d, "--spare", fmt.Sprintf("%dMiB", spareMiB))
	lay := rig.LayoutOf(t, d.Path)
	w.start(t, s, append([]string{"--queues", "2"}, args...)...)
	rig.Mkfs(t, "ext4", s.Dev)
	dir := s.Mount(t, "ext4")
	b := &busySet{Set: s, rng: rng, dir: dir, tree: rig.PlantTree(t, dir, rng)}
	var bad []rig.Extent
	places := rig.Reserve(t, dir+"/fio", 8<<20)
	for range 40 {
		in := places[rng.IntN(len(places))]
		e := rig.At(in.Start+rng.Int64N(in.Length/512)*512, 512*(1+rng.Int64N(12)))
		bad = append(bad, lay.HomesOnBacking(e.Cut(in.Start, in.End()))...)
	}
	d.SetBad(t, bad)
	b.fio = rig.StartFio(t, dir+"/fio", "rw=randwrite", "size=8M", "bsrange=4k-128k", "iodepth=32",
		"verify=crc32c", "verify_backlog=32", "loops=1000", fmt.Sprintf("randseed=%d",
			rng.Uint32()))
	return b
}

// finish ends fio, which verifies what it writes as it goes, and looks at everything.
func (b *busySet) finish(t testing.TB) {
	t.Helper()
	served(t, b.Set, b.fio, 20)
	rep := b.fio.Stop(t)
	st := b.Status(t)
	t.Logf("fio wrote %d MiB and read %d MiB; %d remaps", rep.WriteBytes>>20, rep.ReadBytes>>20,
		st.Remaps)
	if st.Remaps == 0 {
		t.Error("no block was remapped")
	}
	b.tree.Verify(t, b.dir)
	rig.Unmount(t, b.dir)
	rig.Fsck(t, "ext4", b.Dev)
}

// TestUpgrade swaps the server's program, there and back, while fio writes to a
// file system above a bad disk.
func TestUpgrade(t *testing.T) {
	vmtest.NeedUblk(t)
	for _, w := range ways(false) {
		t.Run(w.String(), func(t *testing.T) { testUpgrade(t, w) })
	}
}

func testUpgrade(t *testing.T, w way) {
	rig.Guard(t, 5*time.Minute)
	other, otherName := otherVersion(t)
	programs := []string{vmtest.Binary(t), other}
	versions := []string{versionOf(t, programs[0]), otherName}
	b := newBusySet(t, w, "--retries=3", "--isolate-time=660s")
	swaps := 2
	if vmtest.Full() {
		swaps = 20
	}
	for i := range swaps {
		from, to := i%2, (i+1)%2
		before := served(t, b.Set, b.fio, 20+b.rng.Int64N(60))
		b.LetDie()
		r := rig.Launch(t, programs[to], "upgrade", b.Dev).Wait(t, rig.Limit)
		out := r.Want(t, rig.ExitDone)
		m := upgradeLine.FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("upgrade printed %q", out)
		}
		t.Log(out)
		after := b.Status(t)
		b.Attend(t)
		want := []string{b.Dev, versions[from], strconv.Itoa(before.ServerPID), versions[to],
			strconv.Itoa(after.ServerPID)}
		if !slices.Equal(m[1:6], want) || after.ServerPID == before.ServerPID {
			t.Errorf("it says %v, want %v", m[1:6], want)
		}
		if after.State != "live" || after.UUID != before.UUID || after.Remaps < before.Remaps ||
			after.Features != before.Features {
			t.Errorf("after the upgrade: %+v\nbefore: %+v", after, before)
		}
		// The options that it was started with go along.
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", after.ServerPID))
		if err != nil || !bytes.Contains(cmdline, []byte("--retries=3\x00")) ||
			!bytes.Contains(cmdline, []byte("--isolate-time=11m0s\x00")) {
			t.Errorf("command line %q, %v", cmdline, err)
		}
	}
	b.finish(t)
}

// TestUpgradeRefused: an upgrade that cannot work is refused in advance, and the server stays as it
// is.
func TestUpgradeRefused(t *testing.T) {
	vmtest.NeedUblk(t)
	vmtest.OnOneKernel(t)
	rig.Guard(t, 2*time.Minute)
	rig.Remap(t, "upgrade", "no-such-device").Want(t, rig.ExitNotFound)
	d := rig.NewDisk(t, rig.KindLoop, 32, 512)
	s := create(t, d, "--spare", "1MiB")
	// In the foreground, as under a supervisor.
	p := rig.Launch(t, vmtest.Binary(t), "start", d.Path, "--foreground")
	deadline := time.Now().Add(rig.Limit)
	for rig.Remap(t, "status", s.Name).Code != rig.ExitDone {
		if p.Ended() || time.Now().After(deadline) {
			t.Fatalf("it does not start\n%s", p.Result())
		}
		time.Sleep(50 * time.Millisecond)
	}
	for {
		var st rig.Status
		rig.Parse(t, rig.Remap(t, "status", s.Name, "--json"), &st)
		if s.Dev = st.Device; st.State == "live" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it is %s", st.State)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if r := rig.Remap(t, "upgrade", s.Dev); r.Code != rig.ExitRefused || !strings.Contains(r.Stderr,
		"supervisor") {
		t.Errorf("in the foreground: want exit code %d\n%s", rig.ExitRefused, r)
	}
	if st := s.Status(t); st.State != "live" || st.ServerPID != p.Cmd.Process.Pid {
		t.Errorf("after the refusal: %+v", st)
	}
	// This is what the refusal says to do instead.
	s.Kill(t)
	p.Wait(t, rig.Limit)
	if r := rig.Remap(t, "upgrade", s.Dev); r.Code != rig.ExitFailed || !strings.Contains(r.Stderr,
		"ublk-remap start") {
		t.Errorf("with a dead server: want exit code %d and what to do\n%s", rig.ExitFailed, r)
	}
	s.Start(t)
}

// TestUpgradeBroughtBack ends the new server when the old one has been asked to
// leave, so that the old program has to be brought back; its file is gone by then.
func TestUpgradeBroughtBack(t *testing.T) {
	vmtest.NeedUblk(t)
	rig.Guard(t, 3*time.Minute)
	rng := rig.Random(t)
	d := rig.NewDisk(t, rig.KindLoop, 32, 512)
	s := create(t, d, "--spare", "1MiB")
	s.Start(t, "--queues", "1")
	otherName := ""
	// The file of the program that serves is deleted by then.
	serveByAnother := func() {
		t.Helper()
		var other string
		other, otherName = otherVersion(t)
		s.LetDie()
		rig.Launch(t, other, "upgrade", s.Dev).Wait(t, rig.Limit).Want(t, rig.ExitDone)
		if err := os.Remove(other); err != nil {
			t.Fatal(err)
		}
	}
	serveByAnother()
	fio := rig.StartFio(t, s.Dev, "rw=randwrite", "size=4M", "bs=4k", "iodepth=16", "verify=crc32c",
		"verify_backlog=32", "loops=1000",
		fmt.Sprintf("randseed=%d", rng.Uint32()))
	for try := 0; ; try++ {
		old := int(served(t, s, fio, 20).ServerPID)
		r := upgradeWithoutSuccessor(t, s, old)
		if r.Code == rig.ExitDone && try < 20 {
			// The upgrade was finished before the new server could be killed.
			serveByAnother()
			continue
		}
		now := s.Status(t)
		if now.State != "live" || r.Code != rig.ExitFailed {
			t.Errorf("after a failed upgrade: %+v\n%s", now, r)
			s.Start(t)
			break
		}
		if now.ServerPID != old {
			if want := fmt.Sprintf("started again and serves the device, %s (pid %d)", otherName,
				now.ServerPID); !strings.Contains(r.Stderr, want) {
				t.Errorf("want %q\n%s", want, r)
			}
			break
		}
		// The request had not been sent yet.
		want := fmt.Sprintf("still served by the old server, %s (pid %d)", otherName, old)
		if !strings.Contains(r.Stderr, want) || try == 20 {
			t.Errorf("try %d: want %q\n%s", try, want, r)
			break
		}
	}
	s.Attend(t)
	served(t, s, fio, 20)
	fio.Stop(t)
}

// upgradeWithoutSuccessor runs an upgrade whose new server is killed after it
// has connected to the old one, which is kept from answering until then.
func upgradeWithoutSuccessor(t testing.TB, s *rig.Set, old int) rig.Result {
	t.Helper()
	p := rig.Launch(t, vmtest.Binary(t), "upgrade", s.Dev)
	stopped, next := false, 0
	// A successor that was answered before the old server stopped is not connected any more, and
	// waits for its end.
	var answered time.Time
	for !p.Ended() && (!stopped || time.Now().Before(answered)) {
		if next == 0 {
			next = successorOf(old)
		}
		if next > 0 && !stopped {
			if stopped = syscall.Kill(old, syscall.SIGSTOP) == nil; !stopped {
				return p.Wait(t, rig.Limit) // too late: it has left already
			}
			answered = time.Now().Add(5 * time.Second)
		}
		if links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", next)); next > 0 &&
			slices.ContainsFunc(links, func(l string) bool {
				to, _ := os.Readlink(l)
				return strings.HasPrefix(to, "socket:")
			}) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond)
	if next > 0 {
		_ = syscall.Kill(next, syscall.SIGKILL)
	}
	if stopped {
		_ = syscall.Kill(old, syscall.SIGCONT)
	}
	return p.Wait(t, rig.Limit)
}

// TestUpgradeKilled kills one of the three processes that take part in an upgrade, at any moment of
// it. A start must bring the device back, if it is not live already.
func TestUpgradeKilled(t *testing.T) {
	vmtest.NeedUblk(t)
	rig.Guard(t, 5*time.Minute)
	w := ways(true)
	b := newBusySet(t, w[len(w)-1])
	victims := []string{"old", "new", "client"}
	rounds := 3
	if vmtest.Full() {
		rounds = 60
	}
	for i := range rounds {
		before := served(t, b.Set, b.fio, 5+b.rng.Int64N(20))
		b.LetDie()
		victim := victims[i%len(victims)]
		p := rig.Launch(t, vmtest.Binary(t), "upgrade", b.Dev)
		wait := time.Duration(b.rng.IntN(800)) * time.Millisecond
		time.Sleep(wait)
		pid := 0
		switch victim {
		case "old":
			pid = before.ServerPID
		case "new":
			pid = successorOf(before.ServerPID)
		case "client":
			pid = p.Cmd.Process.Pid
		}
		if pid > 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
		}
		r := p.Wait(t, rig.Limit)
		// The start is refused if another server serves the device already, or is about to.
		var again rig.Result
		for deadline := time.Now().Add(rig.Limit); ; {
			again = rig.Remap(t, b.StartLine()...)
			if again.Code == rig.ExitDone || again.Code == rig.ExitRefused &&
				b.Status(t).State == "live" {
				break
			}
			if again.Code != rig.ExitRefused || time.Now().After(deadline) {
				t.Fatalf("round %d: %s killed after %v: no start\n%s\nupgrade: %s", i, victim, wait,
					again, r)
			}
			time.Sleep(100 * time.Millisecond)
		}
		after := settledServer(t, b.Set)
		b.Attend(t)
		t.Logf("round %d: %s killed after %v: upgrade %d, start %d, pid %d -> %d", i, victim, wait,
			r.Code, again.Code, before.ServerPID, after.ServerPID)
	}
	b.finish(t)
}

// settledServer waits for the server that stays. If the client of an upgrade is killed, the
// successor that it started continues, and recovers the device later.
func settledServer(t testing.TB, s *rig.Set) rig.Status {
	t.Helper()
	for deadline := time.Now().Add(
		rig.Limit); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		st := s.Status(t)
		if st.State == "live" && successorOf(st.ServerPID) == 0 && running("\x00upgrade\x00") == 0 {
			// It may have handed over between the first look and the second.
			if again := s.Status(t); again.State == "live" && again.ServerPID == st.ServerPID {
				return again
			}
		}
	}
	rig.DumpTasks("no server stays")
	t.Fatalf("no server stays: %+v", s.Status(t))
	return rig.Status{}
}

// successorOf finds the server that is to follow a process; 0: there
// is none.
func successorOf(pid int) int { return running(fmt.Sprintf("--take-over=%d\x00", pid)) }

// running finds a process by a part of its command line, whose words end with a
// zero byte each; 0: there is none.
func running(part string) int {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		text, _ := os.ReadFile(f)
		if bytes.Contains(text, []byte(part)) {
			n, _ := strconv.Atoi(strings.Split(f, "/")[2])
			return n
		}
	}
	return 0
}
