package campaign

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// perDisk is how many rounds a disk, and the file system on it, goes through.
const perDisk = 12

// fioBytes is what fio writes and reads back in a round, once over.
func fioBytes() int64 {
	if long() {
		return 16 << 20
	}
	return 4 << 20
}

// figures are what a campaign reports.
type figures struct {
	rounds          int
	deaths, above   tally
	idle            int // deaths that came after fio had ended
	wiped           int // recoveries without a record
	recovered       spread
	wrote, verified int64
	heals           int64
}

func (f *figures) log(t *testing.T) {
	t.Logf("%d rounds (%s; %s), %d deaths after the load, %d recoveries without a record", f.rounds,
		f.deaths, f.above, f.idle, f.wiped)
	t.Logf("from death to live: %s", f.recovered)
	t.Logf("%d MiB written, %d MiB verified, %d heals; nothing lost, nothing hung", f.wrote>>20,
		f.verified>>20, f.heals)
}

// TestKillUnderLoad lets servers die while fio writes to ext4, to xfs, and to the
// device itself, above a disk that goes bad under it. fio must not notice.
func TestKillUnderLoad(t *testing.T) {
	vmtest.NeedUblk(t)
	vmtest.NeedTools(t, "fio", "mkfs.ext4", "mkfs.xfs", "e2fsck", "xfs_repair", "dmsetup")
	group := newMemcg(t)
	all := seeds(t, rounds(t, 3))
	f := &figures{deaths: tally{}, above: tally{}}
	each := perDisk
	if !long() {
		each = 1
	}
	turn := int(all[0] % 3)
	for n := turn; len(all) > 0; n++ {
		now := all[:min(each, len(all))]
		all = all[len(now):]
		fs := []string{"ext4", "xfs", "raw"}[n%3]
		t.Run(fmt.Sprintf("%d/%s", n-turn, fs), func(t *testing.T) {
			killOneDisk(t, group, fs, now,
				f)
		})
		if t.Failed() {
			return
		}
	}
	f.log(t)
}

// killedSet is a set whose server is going to die.
type killedSet struct {
	*rig.Set
	disk   *rig.Disk
	layout rig.Layout
	group  memcg
	flags  []string
	pid    int
	block  int64
}

// batchIsSurvived: where a server with batch I/O is killed, Linux 7.0 to 7.3 copy
// to memory that is not there any more (ublk.KnownBadBatchIO). That fails, but
// user-mode Linux panics.
func batchIsSurvived() bool {
	return !vmtest.UserMode() && !vmtest.KernelVersion().Less(vmtest.V(7, 0))
}

func killOneDisk(t *testing.T, group memcg, fs string, all []uint64, f *figures) {
	rig.Guard(t, time.Duration(len(all))*5*time.Minute)
	rng := source(all[0])
	d := newDisk(t, rng)
	v := &killedSet{Set: rig.Create(t, d.Path, "", "--spare", "8MiB"), disk: d,
		layout: rig.LayoutOf(t, d.Path), group: group}
	v.flags = []string{rig.Unhurried, "--queues", fmt.Sprint(1 + rng.IntN(2)), "--depth",
		fmt.Sprint([]int{8, 32, 128}[rng.IntN(3)])}
	if rng.IntN(2) == 0 {
		v.flags = append(v.flags, "--zero-copy", "off")
	}
	if rng.IntN(3) == 0 && batchIsSurvived() {
		v.flags = append(v.flags, "--batch-io", "on")
	}
	if rng.IntN(3) == 0 {
		v.flags = append(v.flags, "--poll", "100us", "--huge-pages")
	}
	dir := ""
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the server:\n%s", rig.ServerLogs(v.Name))
			// In this order: with neither a server nor an error umount would wait.
			_ = exec.Command(vmtest.Binary(t), "stop", "--force", v.Name).Run()
			if dir != "" {
				_ = exec.Command("umount", "-l", dir).Run()
			}
		}
	})
	v.start(t)
	v.block = v.Status(t).BlockSize
	t.Logf("%s on %s, blocks of %d bytes, %q", fs, d.Kind, v.block, v.flags)
	if fs != "raw" {
		rig.Mkfs(t, fs, v.Dev)
		dir = t.TempDir()
		rig.Run(t, "mount", "-t", fs, v.Dev, dir)
	}
	span := 2 * time.Second // how long fio takes, learned from what it took
	for _, seed := range all {
		span = v.round(t, fs, dir, seed, span, f)
		if t.Failed() {
			return
		}
	}
	if dir != "" {
		rig.Unmount(t, dir)
		rig.Fsck(t, fs, v.Dev)
	}
	v.Stop(t)
	v.Check(t)
	wantNothing(t)
}

// start starts the server within the memory group, and notes which process it is.
func (v *killedSet) start(t *testing.T) {
	t.Helper()
	r := v.group.start(t, append([]string{v.Path}, v.flags...)...)
	v.Started(t, r)
	v.pid = v.PID()
}

// round loads the device, lets the server die at a random moment, starts it
// again, and checks that everything works. span is how long fio is
// thought to take undisturbed; what it is thought to take next is returned.
func (v *killedSet) round(t *testing.T, fs, dir string, seed uint64, span time.Duration,
	f *figures) time.Duration {
	t.Helper()
	rng := source(seed)
	how := deaths[rng.IntN(len(deaths))]
	file, places := v.Dev, []rig.Extent{{Start: rng.Int64N(16) * fioBytes(), Length: fioBytes()}}
	args := []string{
		"rw=randwrite", fmt.Sprintf("bsrange=%d-128k", max(v.block, 4096)), "iodepth=16",
		"verify_backlog=64", "loops=2",
		fmt.Sprintf("size=%d", fioBytes()), fmt.Sprintf("randseed=%d", rng.Uint32()),
	}
	if dir != "" {
		file = filepath.Join(dir, fmt.Sprintf("fio-%d", rng.Uint32()))
		places = rig.Reserve(t, file, fioBytes())
		defer func() { _ = os.Remove(file) }()
	} else {
		args = append(args, fmt.Sprintf("offset=%d", places[0].Start))
	}
	// The disk goes bad where fio is going to write: a loss of what was written before
	// would be an error in any case.
	v.disk.SetBad(t, append(pick(rng, v.layout, v.block, places, 1+rng.IntN(8)), v.disk.Bad...))
	before := v.Status(t)

	job := startFio(t, file, args...)
	time.Sleep(time.Duration(rng.Int64N(int64(span))))
	busy := !job.Ended()
	v.LetDie()
	dead := v.group.kill(t, rng, how, v.pid)
	var down time.Duration
	if how == bySIGSEGV || how == bySIGBUS || how == bySIGABRT {
		// The runtime's last output is kept, to explain a failure later.
		text, err := os.ReadFile(v.RunFile(".log"))
		if err != nil || !strings.Contains(string(text), "goroutine ") {
			t.Errorf("the log has nothing about a crash (%v)", err)
		}
	}
	if dead {
		down = v.recover(t, rng, f)
	}
	did := verified(t, job)
	after := v.Status(t)
	wantLive(t, v.Dev)
	wantNoneBlocked(t)
	heals := after.Heals.Writes
	if !dead {
		heals -= before.Heals.Writes
	}
	f.rounds++
	f.deaths[string(how)]++
	f.above[fs]++
	f.wrote, f.verified, f.heals = f.wrote+did.WriteBytes, f.verified+did.ReadBytes, f.heals+heals
	if !busy {
		f.idle++
	}
	t.Logf("round %d, seed %s=%d: %s, fio ran: %v, live after %v, %d remaps", f.rounds, rig.SeedEnv,
		seed, how, busy, down.Round(time.Millisecond), after.Remaps)
	if busy {
		return min(span*5/4, 20*time.Second) // what it took includes the pause
	}
	return max(job.Took(), 100*time.Millisecond)
}

// recover starts the next server, sometimes after a while, sometimes with an emptied runtime
// directory. It returns how long the start took.
func (v *killedSet) recover(t *testing.T, rng *rand.Rand, f *figures) time.Duration {
	t.Helper()
	if rng.IntN(2) == 0 {
		time.Sleep(time.Duration(rng.IntN(500)) * time.Millisecond)
	}
	if rng.IntN(4) == 0 {
		if err := os.RemoveAll(runDir); err != nil {
			t.Fatal(err)
		}
		f.wiped++
	}
	began := time.Now()
	v.start(t)
	took := time.Since(began)
	f.recovered = append(f.recovered, took)
	return took
}
