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
	parse(t, launch(t, program, "version", "--json").wait(t, limit), &v)
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
	*set
	rng  *rand.Rand
	dir  string
	tree tree
	fio  *process
}

// newBusySet starts all of it.
func newBusySet(t testing.TB, w way, args ...string) *busySet {
	t.Helper()
	rng := random(t)
	d := newDisk(t, kindLoop, diskMiB, 512)
	s := create(t, d, "--spare", fmt.Sprintf("%dMiB", spareMiB))
	lay := layoutOf(t, d)
	w.start(t, s, append([]string{"--queues", "2"}, args...)...)
	mkfs(t, "ext4", s.dev)
	dir := mount(t, "ext4", s)
	b := &busySet{set: s, rng: rng, dir: dir, tree: plantTree(t, dir, rng)}
	var bad []extent
	places := fileExtents(t, dir+"/fio", 8<<20)
	for range 40 {
		in := places[rng.IntN(len(places))]
		e := extent{in.start + rng.Int64N(in.length/512)*512, 512 * (1 + rng.Int64N(12))}
		bad = append(bad, lay.homeOf(cut(e, in.start, in.end()))...)
	}
	d.setBad(t, bad)
	b.fio = startFio(t, dir+"/fio", "rw=randwrite", "size=8M", "bsrange=4k-128k", "iodepth=32",
		"verify=crc32c", "verify_backlog=32", "loops=1000", fmt.Sprintf("randseed=%d",
			rng.Uint32()))
	return b
}

// finish ends fio, which verifies what it writes as it goes, and looks at everything.
func (b *busySet) finish(t testing.TB) {
	t.Helper()
	b.served(t, b.fio, 20)
	rep := fioStopped(t, b.fio)
	st := b.status(t)
	t.Logf("fio wrote %d MiB and read %d MiB; %d remaps", rep.writeBytes>>20, rep.readBytes>>20,
		st.Remaps)
	if st.Remaps == 0 {
		t.Error("no block was remapped")
	}
	b.tree.verify(t, b.dir)
	umount(t, b.dir)
	fsck(t, "ext4", b.dev)
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
	guard(t, 5*time.Minute)
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
		before := b.served(t, b.fio, 20+b.rng.Int64N(60))
		b.pid.Store(0)
		r := launch(t, programs[to], "upgrade", b.dev).wait(t, limit)
		out := r.want(t, exitDone)
		m := upgradeLine.FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("upgrade printed %q", out)
		}
		t.Log(out)
		after := b.status(t)
		b.pid.Store(int64(after.ServerPID))
		want := []string{b.dev, versions[from], strconv.Itoa(before.ServerPID), versions[to],
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

// TestUpgradeRefused: what can be known before leaves the server as it is.
func TestUpgradeRefused(t *testing.T) {
	vmtest.NeedUblk(t)
	guard(t, 2*time.Minute)
	remap(t, "upgrade", "no-such-device").want(t, exitNotFound)
	d := newDisk(t, kindLoop, 32, 512)
	s := create(t, d, "--spare", "1MiB")
	// In the foreground, as under a supervisor.
	p := launch(t, vmtest.Binary(t), "start", d.path, "--foreground")
	deadline := time.Now().Add(limit)
	for remap(t, "status", s.name).code != exitDone {
		if p.ended() || time.Now().After(deadline) {
			t.Fatalf("it does not start\n%s", p.result())
		}
		time.Sleep(50 * time.Millisecond)
	}
	for {
		var st status
		parse(t, remap(t, "status", s.name, "--json"), &st)
		if s.dev = st.Device; st.State == "live" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it is %s", st.State)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if r := remap(t, "upgrade", s.dev); r.code != exitRefused || !strings.Contains(r.stderr,
		"supervisor") {
		t.Errorf("in the foreground: want exit code %d\n%s", exitRefused, r)
	}
	if st := s.status(t); st.State != "live" || st.ServerPID != p.cmd.Process.Pid {
		t.Errorf("after the refusal: %+v", st)
	}
	// What it says to do instead.
	s.kill(t)
	p.wait(t, limit)
	if r := remap(t, "upgrade", s.dev); r.code != exitFailed || !strings.Contains(r.stderr,
		"ublk-remap start") {
		t.Errorf("with a dead server: want exit code %d and what to do\n%s", exitFailed, r)
	}
	s.start(t)
}

// TestUpgradeBroughtBack ends the new server when the old one has been asked to
// leave, so that the old program has to be brought back; its file is gone by then.
func TestUpgradeBroughtBack(t *testing.T) {
	vmtest.NeedUblk(t)
	guard(t, 3*time.Minute)
	rng := random(t)
	d := newDisk(t, kindLoop, 32, 512)
	s := create(t, d, "--spare", "1MiB")
	s.start(t, "--queues", "1")
	otherName := ""
	// The program that serves then is on no disk any more.
	serveByAnother := func() {
		t.Helper()
		var other string
		other, otherName = otherVersion(t)
		s.pid.Store(0)
		launch(t, other, "upgrade", s.dev).wait(t, limit).want(t, exitDone)
		if err := os.Remove(other); err != nil {
			t.Fatal(err)
		}
	}
	serveByAnother()
	fio := startFio(t, s.dev, "rw=randwrite", "size=4M", "bs=4k", "iodepth=16", "verify=crc32c",
		"verify_backlog=32", "loops=1000",
		fmt.Sprintf("randseed=%d", rng.Uint32()))
	for try := 0; ; try++ {
		old := int(s.served(t, fio, 20).ServerPID)
		r := s.upgradeWithoutSuccessor(t, old)
		if r.code == exitDone && try < 20 {
			// It was done before anybody could come in between.
			serveByAnother()
			continue
		}
		now := s.status(t)
		if now.State != "live" || r.code != exitFailed {
			t.Errorf("after a failed upgrade: %+v\n%s", now, r)
			s.start(t)
			break
		}
		if now.ServerPID != old {
			if want := fmt.Sprintf("%s serves again (pid %d)", otherName,
				now.ServerPID); !strings.Contains(r.stderr, want) {
				t.Errorf("want %q\n%s", want, r)
			}
			break
		}
		// The request had not been sent yet.
		if want := fmt.Sprintf("%s (pid %d) serves on", otherName, old); !strings.Contains(r.stderr,
			want) || try == 20 {
			t.Errorf("try %d: want %q\n%s", try, want, r)
			break
		}
	}
	s.pid.Store(int64(s.status(t).ServerPID))
	s.served(t, fio, 20)
	fioStopped(t, fio)
}

// upgradeWithoutSuccessor runs an upgrade whose new server is killed after it
// has connected to the old one, which is kept from answering until then.
func (s *set) upgradeWithoutSuccessor(t testing.TB, old int) result {
	t.Helper()
	p := launch(t, vmtest.Binary(t), "upgrade", s.dev)
	stopped, next := false, 0
	for !p.ended() {
		if next == 0 {
			next = successorOf(old)
		}
		if next > 0 && !stopped {
			if stopped = syscall.Kill(old, syscall.SIGSTOP) == nil; !stopped {
				return p.wait(t, limit) // too late: it has left already
			}
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
	return p.wait(t, limit)
}

// TestUpgradeKilled kills one of the three that take part in an upgrade, at any
// moment of it. A start must bring the device back, if it is not live already.
func TestUpgradeKilled(t *testing.T) {
	vmtest.NeedUblk(t)
	guard(t, 5*time.Minute)
	w := ways(true)
	b := newBusySet(t, w[len(w)-1])
	victims := []string{"old", "new", "client"}
	rounds := 3
	if vmtest.Full() {
		rounds = 60
	}
	for i := range rounds {
		before := b.served(t, b.fio, 5+b.rng.Int64N(20))
		b.pid.Store(0)
		victim := victims[i%len(victims)]
		p := launch(t, vmtest.Binary(t), "upgrade", b.dev)
		wait := time.Duration(b.rng.IntN(800)) * time.Millisecond
		time.Sleep(wait)
		pid := 0
		switch victim {
		case "old":
			pid = before.ServerPID
		case "new":
			pid = successorOf(before.ServerPID)
		case "client":
			pid = p.cmd.Process.Pid
		}
		if pid > 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
		}
		r := p.wait(t, limit)
		// Refused: somebody serves it already, or comes to.
		var again result
		for deadline := time.Now().Add(limit); ; {
			again = remap(t, b.startLine()...)
			if again.code == exitDone || again.code == exitRefused && b.status(t).State == "live" {
				break
			}
			if again.code != exitRefused || time.Now().After(deadline) {
				t.Fatalf("round %d: %s killed after %v: no start\n%s\nupgrade: %s", i, victim, wait,
					again, r)
			}
			time.Sleep(100 * time.Millisecond)
		}
		after := b.settled(t)
		b.pid.Store(int64(after.ServerPID))
		t.Logf("round %d: %s killed after %v: upgrade %d, start %d, pid %d -> %d", i, victim, wait,
			r.code, again.code, before.ServerPID, after.ServerPID)
	}
	b.finish(t)
}

// settled waits for the server that stays. The successor of one that serves goes
// on when the client that sent for it is killed, and takes over in its own time.
func (s *set) settled(t testing.TB) status {
	t.Helper()
	for deadline := time.Now().Add(
		limit); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		st := s.status(t)
		if st.State == "live" && successorOf(st.ServerPID) == 0 && running("\x00upgrade\x00") == 0 {
			// It may have handed over between the first look and the second.
			if again := s.status(t); again.State == "live" && again.ServerPID == st.ServerPID {
				return again
			}
		}
	}
	dumpTasks("no server stays")
	t.Fatalf("no server stays: %+v", s.status(t))
	return status{}
}

// successorOf finds the server that is to take over from a process; 0: there
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
