package campaign

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// verb is what is cut short.
type verb string

const (
	creating   verb = "create"
	starting   verb = "start"
	recovering verb = "recovery"
	upgrading  verb = "upgrade"
	stopping   verb = "stop"
)

var verbs = []verb{creating, starting, recovering, upgrading, stopping}

// target says who is killed: the verb's own process, the servers, or all.
type target string

const (
	client  target = "client"
	serving target = "server"
	both    target = "both"
)

var whoms = []target{client, serving, both}

// trial is the set that verbs are tried on.
type trial struct {
	*rig.Set
	took map[verb]time.Duration // an undisturbed run
	// what happened, for the report
	cut, finished tally
	recovered     spread
	verified      int64
}

// TestKillVerbs kills the server, the client or both at a random instant of each
// verb. The next one must work, and nothing may be left.
func TestKillVerbs(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	vmtest.NeedTools(t, "fio")
	all := seeds(t, rounds(t, 5))
	rig.Guard(t, time.Duration(len(all))*4*time.Minute)
	loop := vmtest.NewLoop(t, 32<<20, vmtest.LoopOptions{})
	b := &trial{Set: rig.Create(t, loop, "", "--spare", "1MiB"), took: map[verb]time.Duration{},
		cut: tally{}, finished: tally{}}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the server:\n%s", rig.ServerLogs(b.Name))
			_ = rig.Remap(t, "stop", "--force", b.Name)
		}
	})
	b.measure(t)
	for n, seed := range all {
		b.round(t, n, source(seed), seed)
		if t.Failed() {
			t.Fatalf("round %d, seed %s=%d", n+1, rig.SeedEnv, seed)
		}
	}
	b.Check(t)
	wantNothing(t)
	t.Logf("%d rounds; cut short: %s; came too late: %s", len(all), b.cut, b.finished)
	t.Logf("the next start: %s; %d MiB verified through recoveries", b.recovered, b.verified>>20)
}

func (b *trial) args(v verb) []string {
	switch v {
	case creating:
		return []string{"create", b.Path, "--name", b.Name, "--spare", "1MiB", "--force", "--yes"}
	case upgrading:
		return []string{"upgrade", b.Name}
	case stopping:
		return []string{"stop", b.Name}
	default:
		return []string{"start", b.Path}
	}
}

// measure runs each verb undisturbed, to learn how long it takes.
func (b *trial) measure(t *testing.T) {
	t.Helper()
	for _, v := range []verb{creating, starting, upgrading, recovering, stopping} {
		if v == recovering {
			b.die(t)
		}
		began := time.Now()
		rig.Remap(t, b.args(v)...).Want(t, 0)
		b.took[v] = time.Since(began)
	}
}

// die kills the servers of the set, and waits until they are dead.
func (b *trial) die(t *testing.T) {
	t.Helper()
	for _, pid := range servers("") {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
	}
	rig.Await(t, "servers do not die", func() error {
		for _, pid := range servers("") {
			if rig.Alive(pid) {
				return fmt.Errorf("process %d lives", pid)
			}
		}
		return nil
	})
}

// round cuts one verb short.
func (b *trial) round(t *testing.T, n int, rng *rand.Rand, seed uint64) {
	t.Helper()
	v, who := verbs[rng.IntN(len(verbs))], whoms[rng.IntN(len(whoms))]
	delay := time.Duration(rng.Int64N(int64(b.took[v]) * 5 / 4))
	again := rng.IntN(3) // how often a recovery is cut short once more
	wiped := rng.IntN(6) == 0
	var job *rig.Fio
	switch v {
	case recovering, upgrading, stopping:
		rig.Remap(t, "start", b.Path).Want(t, 0)
	}
	dev := b.device(t)
	if v == recovering || v == upgrading {
		job = startFio(t, dev, "rw=randwrite", "bs=4k", "iodepth=8", "size=2M", "verify_backlog=32",
			"loops=2", fmt.Sprintf("randseed=%d", rng.Uint32()))
	}
	if v == recovering {
		b.die(t)
	}
	cut := b.cutShort(t, v, who, delay)
	for v == recovering && again > 0 {
		again--
		b.die(t)
		b.cutShort(t, v, whoms[rng.IntN(len(whoms))],
			time.Duration(rng.Int64N(int64(b.took[v])*5/4)))
	}
	where := b.cut
	if !cut {
		where = b.finished
	}
	where[string(v)+"/"+string(who)]++
	if wiped {
		// The servers must be dead: without its files a living one could not be reached.
		b.die(t)
		wipe(t)
	}
	b.mend(t, v, rng, job != nil)
	if job != nil {
		b.verified += verified(t, job).ReadBytes
	}
	b.end(t)
	wantNothing(t)
	b.Check(t)
	t.Logf("round %d, seed %s=%d: %s, %s killed after %v of %v (cut: %v, wiped: %v)",
		n+1, rig.SeedEnv, seed, v, who, delay.Round(100*time.Microsecond),
		b.took[v].Round(time.Millisecond), cut, wiped)
}

// device is the path of the set's device, empty if there is none.
func (b *trial) device(t *testing.T) string {
	t.Helper()
	for _, it := range rig.List(t) {
		return it.Device
	}
	return ""
}

// cutShort runs a verb, kills after a while, and returns whether that was before
// the verb was done.
func (b *trial) cutShort(t *testing.T, v verb, who target, delay time.Duration) bool {
	t.Helper()
	before := map[int]bool{} // an upgrade has an old and a new server
	cmd := exec.Command(vmtest.Binary(t), b.args(v)...)
	out, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	cmd.Stdout, cmd.Stderr = out, out // a pipe would be kept open by the server
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{}, 1)
	go func() { _ = cmd.Wait(); done <- struct{}{} }() // how it ends does not matter
	time.Sleep(delay)
	cut := len(done) == 0
	if who != client && v != creating {
		for _, pid := range servers("") {
			before[pid] = true
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if who != serving || v == creating {
		_ = cmd.Process.Kill()
	}
	select {
	case <-done:
	case <-time.After(rig.Limit):
		rig.DumpTasks("a client hangs")
		_ = cmd.Process.Kill()
		said, _ := os.ReadFile(out.Name())
		t.Fatalf("%s hangs after %s was killed: %s", cmd, who, said)
	}
	if v == stopping && who == client {
		// The server lives on or stops, as it was told. The next verb may come in between.
		return cut
	}
	// A server that lives finishes by itself what it was told to do.
	rig.Await(t, "servers neither come to be live nor die", func() error {
		for _, pid := range servers("") {
			if before[pid] && rig.Alive(pid) {
				return fmt.Errorf("process %d does not die", pid)
			}
		}
		// A live server may have a successor. The successor continues without the client that
		// started it, and recovers the device later.
		items, left := rig.List(t), servers("")
		if len(left) == 0 || len(left) == 1 && len(items) == 1 && items[0].State == "live" &&
			items[0].ServerPID == left[0] {
			return nil
		}
		return fmt.Errorf("servers %v, list shows %+v", left, items)
	})
	return cut
}

// mend runs the next verb, which must work: start if I/O is waiting, else start or stop. A disk
// whose preparation was cut short is prepared again.
func (b *trial) mend(t *testing.T, v verb, rng *rand.Rand, waits bool) {
	t.Helper()
	if v == creating {
		rig.Remap(t, b.args(creating)...).Want(t, 0)
	}
	if v == stopping && len(servers("")) > 0 || !waits && rng.IntN(2) == 0 {
		b.end(t)
		return
	}
	for _, it := range rig.List(t) {
		if it.State == "live" {
			return // it survived
		}
	}
	began := time.Now()
	rig.Remap(t, "start", b.Path).Want(t, 0)
	b.recovered = append(b.recovered, time.Since(began))
	for _, it := range rig.List(t) {
		if it.State != "live" {
			t.Errorf("after start: %+v", it)
		}
	}
}

// end stops what is there. It is fine if nothing is there.
func (b *trial) end(t *testing.T) {
	t.Helper()
	r := rig.Remap(t, "stop", b.Name)
	if r.Code != 0 && r.Code != 4 {
		t.Errorf("stop\n%s", r)
	}
	if left, _ := filepath.Glob("/dev/ublkc*"); len(left) > 0 {
		t.Errorf("after stop (exit code %d): %q", r.Code, left)
	}
}
