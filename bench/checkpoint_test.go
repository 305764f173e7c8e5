package bench

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"ublkremap/internal/blockdev"
	"ublkremap/metadata"
	"ublkremap/remap"
)

// keeper drives a Committer as the server's keeper does: one goroutine owns it, and other
// goroutines do its writes and reads.
type keeper struct {
	b    *testing.B
	c    *metadata.Committer
	m    *remap.Map
	jobs chan metadata.Op
	done chan ended
	// processor time of the longest call of Ops, which nothing else in the keeper can shorten
	step time.Duration
}

type ended struct {
	id  metadata.OpID
	err error
}

// keeperWorkers is how many operations the server's keeper has under way at most.
const keeperWorkers = 5

func newKeeper(b *testing.B, d *blockdev.Device, m *remap.Map) *keeper {
	k := &keeper{b: b, c: committer(b, d, m), m: m, jobs: make(chan metadata.Op, 64),
		done: make(chan ended, 64)}
	for range keeperWorkers {
		go func() {
			for op := range k.jobs {
				var err error
				if op.Read {
					_, err = d.ReadAt(op.Data, op.Offset)
				} else {
					_, err = d.WriteAt(op.Data, op.Offset) // as durable as it gets on tmpfs
				}
				k.done <- ended{op.ID, err}
			}
		}()
	}
	return k
}

// commit makes one change durable and publishes it. Meanwhile it continues whatever else is under
// way. It returns how long that took.
func (k *keeper) commit(unit uint64, spare uint32) time.Duration {
	began := time.Now()
	e := []metadata.Entry{mapped(unit, spare)}
	t, err := k.c.Commit(e)
	must(k.b, err)
	for {
		at := cpuTime()
		ops := k.c.Ops()
		k.step = max(k.step, cpuTime()-at)
		for _, op := range ops {
			k.jobs <- op
		}
		for _, r := range k.c.Results() {
			if r.Outcome != metadata.OutcomeDurable {
				k.b.Fatalf("%+v: %v", r, k.c.Status().Err)
			}
			if r.Ticket == t {
				k.m.Apply(e[0])
				return time.Since(began)
			}
		}
		end := <-k.done
		k.c.Done(end.id, end.err)
	}
}

// BenchmarkCommitDuringCheckpoint commits one change after the other while a checkpoint of the
// whole table is written and read back. It runs on tmpfs. So it shows what a checkpoint costs a
// heal that no disk makes slow. An op is a checkpoint. For comparison it reports as many commits
// without a checkpoint.
func BenchmarkCommitDuringCheckpoint(b *testing.B) {
	for _, size := range sizes[2:] {
		for _, layout := range append(layouts, "runs") {
			b.Run(fmt.Sprintf("remaps=%s/%s", size.name, layout), func(b *testing.B) {
				current = table{}
				units := tableUnits(layout, size.remaps)
				var m *remap.Map
				if layout == "runs" { // consecutive units in consecutive spare units: few entries
					m = remap.NewMap(diskUnits, perUnit)
					m.Apply(metadata.Entry{State: metadata.StateMapped, Unit: units[0],
						Count: uint32(len(units)), Mask: 0xff})
				} else {
					m = scattered(units)
				}
				runtime.GC()
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				k := newKeeper(b, newSet(b), m)
				defer close(k.jobs)
				rnd := rand.New(rand.NewPCG(12, 12))
				change := func() time.Duration {
					i := rnd.IntN(len(units))
					return k.commit(units[i], uint32(rnd.Uint64N(setSpares)))
				}
				var during []time.Duration
				for b.Loop() {
					_, err := k.c.Checkpoint()
					must(b, err)
					for written := k.c.Status().Checkpoints; k.c.Status().Checkpoints == written; {
						during = append(during, change())
					}
				}
				var quiet []time.Duration
				for range 2000 {
					quiet = append(quiet, change())
				}
				report(b, during, "during")
				report(b, quiet, "quiet")
				b.ReportMetric(float64(k.step.Nanoseconds())/1e3, "longest-step-cpu-µs")
				b.ReportMetric(float64(len(during))/float64(b.N), "commits/op")
			})
		}
	}
}

// report reports the median and the longest of some times.
func report(b *testing.B, all []time.Duration, name string) {
	slices.Sort(all)
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	b.ReportMetric(us(all[len(all)/2]), name+"-median-µs")
	b.ReportMetric(us(all[len(all)*99/100]), name+"-p99-µs")
	b.ReportMetric(us(all[len(all)-1]), name+"-longest-µs")
}
