package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"ublkremap/bench/fio"
	"ublkremap/bench/jobs"
	"ublkremap/bench/peer"
	"ublkremap/bench/result"
)

// settle is how long devices are left alone before bench counts whether their servers sleep.
const settle = 2 * time.Second

// bench is one run.
type bench struct {
	o   *options
	out io.Writer
	rnd *rand.Rand
	dir string // of the job files
	res *result.Results
}

// measureHere measures on this machine's kernel, and writes the results.
func measureHere(ctx context.Context, o *options, stdout io.Writer) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("measuring needs root")
	}
	m, err := machine(ctx)
	if err != nil {
		return err
	}
	if o.host != "" {
		m.CPU = o.host + " (in the guest: " + m.CPU + ")"
	}
	dir, err := os.MkdirTemp("", "bench-jobs-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := jobs.Extract(dir); err != nil {
		return err
	}
	b := &bench{o: o, out: stdout, rnd: rand.New(rand.NewPCG(o.seed, 0)), dir: dir,
		res: &result.Results{
			Date: time.Now().UTC(), Machine: m, Command: o.command, Commit: o.commit, Seed: o.seed,
			Rounds: o.rounds, Runtime: o.runtime, Bytes: o.mib << 20,
		}}
	_, _ = fmt.Fprintf(stdout, "Linux %s, %s, seed %d\n", m.Kernel, m.CPU, o.seed)
	err = b.all(ctx)
	// If something fails, the results so far are kept.
	path := o.json
	if path == "" {
		path = filepath.Join(o.out, resultsFile)
	}
	if len(b.res.Samples)+len(b.res.Idle)+len(b.res.Heals) == 0 {
		return errors.Join(err, fmt.Errorf("%w: nothing was selected or could be measured",
			errUsage))
	}
	return errors.Join(err, save(path, b.res))
}

func save(path string, r *result.Results) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(r.Write(f), f.Close())
}

// plan is what is measured with one number of queues.
type plan struct {
	queues     int
	io, remaps []jobs.Job
	sync       []jobs.Job
	scrub      []jobs.Job
	idle, heal bool
}

// plans selects by the flag -only.
func (o *options) plans() ([]plan, error) {
	all, err := jobs.All()
	if err != nil {
		return nil, err
	}
	var out []plan
	for i, q := range o.queues {
		p := plan{queues: q, idle: o.wants("idle", "device", q), heal: i == 0 &&
			o.wants("heal", "write", q)}
		for _, j := range all {
			if !j.Parallel && i > 0 {
				continue
			}
			if !j.Miss && !j.Sync && o.wants("io", j.Name, q) {
				p.io = append(p.io, j)
			}
			if j.Sync && o.wants("sync", j.Name, q) {
				p.sync = append(p.sync, j)
			}
			if j.Random() && !j.Miss && !j.Sync && (j.Depth == 1 || j.Depth == 32) &&
				o.wants("scrub", j.Name, q) {
				p.scrub = append(p.scrub, j)
			}
			if j.Random() && j.Parallel && j.Depth == 32 && o.wants("remaps", j.Name, q) {
				p.remaps = append(p.remaps, j)
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// wants reports whether the flag -only selects something.
func (o *options) wants(suite, job string, queues int) bool {
	return o.only.MatchString(name(suite, job, queues))
}

// name is what the flag -only is compared with.
func name(suite, job string, queues int) string {
	return fmt.Sprintf("%s/%s/q%d", suite, job, queues)
}

// list prints what would be measured.
func list(o *options, w io.Writer) error {
	plans, err := o.plans()
	if err != nil {
		return err
	}
	for _, p := range plans {
		for _, j := range p.io {
			_, _ = fmt.Fprintln(w, name("io", j.Name, p.queues))
		}
		if p.idle {
			_, _ = fmt.Fprintln(w, name("idle", "device", p.queues))
		}
		for _, j := range p.sync {
			_, _ = fmt.Fprintln(w, name("sync", j.Name, p.queues))
		}
		for _, j := range p.scrub {
			_, _ = fmt.Fprintln(w, name("scrub", j.Name, p.queues))
		}
		for _, j := range p.remaps {
			_, _ = fmt.Fprintln(w, name("remaps", j.Name, p.queues))
		}
		if p.heal {
			_, _ = fmt.Fprintln(w, name("heal", "write", p.queues))
		}
	}
	return nil
}

func (b *bench) all(ctx context.Context) error {
	plans, err := b.o.plans()
	if err != nil {
		return err
	}
	for _, p := range plans {
		disk := peer.Disk{BlockSize: b.o.block, Queues: p.queues, Depth: b.o.depth}
		cached := disk
		cached.CacheMiB = cacheMiB
		err := b.suite(ctx, "io", b.o.makePeers(), disk, p.io, p.idle, anyDevice)
		if err == nil {
			err = b.suite(ctx, "sync", b.o.makePeers(), cached, p.sync, false, anyDevice)
		}
		if err == nil {
			err = b.suite(ctx, "scrub", b.o.makeScrubs(), disk, p.scrub, false, anyDevice)
		}
		if err == nil {
			err = b.suite(ctx, "remaps", b.o.makeTables(), disk, p.remaps, false, meets)
		}
		if err != nil {
			return err
		}
		if p.heal {
			if err := b.allHeals(ctx, p.queues); err != nil {
				return err
			}
		}
	}
	return nil
}

// cacheMiB is the volatile cache of disks that are flushed. It is large enough for the writes
// between two flushes.
const cacheMiB = 16

// anyDevice takes every job on every device.
func anyDevice(jobs.Job, peer.Peer) bool { return true }

// meets returns the devices with tables that a job is for: those whose remaps it misses, or the one
// whose remaps it hits. In both cases devices without remaps are included.
func meets(j jobs.Job, p peer.Peer) bool {
	return p.Table.Remaps == 0 || j.Miss == (p.Table.First == 1)
}

// suite makes the devices, measures each job on each of them in turn, and removes them.
func (b *bench) suite(ctx context.Context, suite string, peers []peer.Peer, disk peer.Disk,
	list []jobs.Job, idle bool, on func(jobs.Job, peer.Peer) bool) (err error) {
	queues := disk.Queues
	if len(list) == 0 && !idle {
		return nil
	}
	bytes := b.o.mib << 20
	if suite == "scrub" { // it must not come to the end while a job runs
		bytes += scrubbedASecond * int64(scrubMargin+2*b.o.runtime) / int64(time.Second)
	}
	devices, err := b.devices(ctx, peers, disk, bytes)
	defer func() {
		for _, d := range devices {
			err = errors.Join(err, d.Close())
		}
	}()
	if err != nil {
		return err
	}
	for round := 1; round <= b.o.rounds; round++ {
		for _, j := range list {
			for turn, i := range b.rnd.Perm(len(devices)) {
				d := devices[i]
				if !on(j, d.Peer) {
					continue
				}
				s, err := b.sample(ctx, d, j, queues)
				if err != nil {
					return err
				}
				s.Suite, s.Round, s.Turn = suite, round, turn+1
				b.res.Samples = append(b.res.Samples, s)
				_, _ = fmt.Fprintf(b.out, "%d/%d %s/%s/q%d %-10s %8.2f kIOPS  %7.1f MiB/s  p50 "+
					"%7.1f µs  p99 %7.1f µs\n", round, b.o.rounds, suite, j.Name, queues,
					d.Peer.Name, s.IOPS/1e3, s.Bandwidth/(1<<20), s.Latency.P50/1e3,
					s.Latency.P99/1e3)
			}
		}
	}
	if idle {
		return b.idle(ctx, devices, queues)
	}
	return nil
}

const (
	// scrubbedASecond is how much a scrub reads at most, by default.
	scrubbedASecond = 50 << 20
	// scrubMargin is for what comes before and after a job.
	scrubMargin = 5 * time.Second
)

// devices makes and fills the devices. It notes those that this machine cannot have.
func (b *bench) devices(ctx context.Context, peers []peer.Peer, disk peer.Disk,
	bytes int64) ([]*peer.Device, error) {
	var out []*peer.Device
	for _, p := range peers {
		begin := time.Now()
		d, err := peer.Make(ctx, p, disk, bytes)
		if errors.Is(err, peer.ErrUnavailable) {
			note := fmt.Sprintf("%s with %d queues: %v", p.Name, disk.Queues, err)
			b.res.Missing = append(b.res.Missing, note)
			_, _ = fmt.Fprintln(b.out, "left out:", note)
			continue
		}
		if err != nil {
			return out, err
		}
		out = append(out, d)
		if _, known := b.res.Peer(p.Name); !known {
			b.res.Peers = append(b.res.Peers, p)
		}
		if err := d.Fill(ctx, b.o.mib<<20); err != nil {
			return out, err
		}
		_, _ = fmt.Fprintf(b.out, "%s is %s, %d hardware queues, made in %.1f s\n", p.Name, d.Path,
			d.HardwareQueues(), time.Since(begin).Seconds())
	}
	return out, nil
}

// sample runs one job on one device.
func (b *bench) sample(ctx context.Context, d *peer.Device, j jobs.Job, queues int) (result.Sample,
	error) {
	s := result.Sample{Job: j.Name, Queues: queues, HardwareQueues: d.HardwareQueues(),
		Peer: d.Peer.Name}
	before, err1 := d.Usage()
	begun, err2 := d.Completed()
	if err := errors.Join(err1, err2); err != nil {
		return s, err
	}
	job := func() (err error) {
		s.Report, err = fio.Run(ctx, fio.Params{File: filepath.Join(b.dir, j.Name+".fio"),
			Device: d.Path, Runtime: b.o.runtime, Jobs: queues, Size: b.o.mib << 20})
		return err
	}
	var err error
	if d.Peer.Scrub {
		var blocks int64
		blocks, err = d.WithScrub(ctx, job)
		_, _ = fmt.Fprintf(b.out, "the scrub has read %d MiB\n", blocks*int64(b.o.block)>>20)
	} else {
		err = job()
	}
	if err != nil {
		return s, fmt.Errorf("%s: %w", d.Peer.Name, err)
	}
	after, err1 := d.Usage()
	done, err2 := d.Completed()
	if d.Served() {
		used := after.Sub(before)
		s.Server = &used
	}
	s.Completed = done - begun
	return s, errors.Join(err1, err2)
}

// idle counts how often servers run while their devices are not in use.
func (b *bench) idle(ctx context.Context, devices []*peer.Device, queues int) error {
	before, threads := make([]peer.Usage, len(devices)), make([][]peer.Thread, len(devices))
	if err := sleep(ctx, settle); err != nil {
		return err
	}
	for i, d := range devices {
		var err1, err2 error
		before[i], err1 = d.Usage()
		threads[i], err2 = d.Threads()
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
	}
	begin := time.Now()
	if err := sleep(ctx, b.o.idle); err != nil {
		return err
	}
	seconds := time.Since(begin).Seconds()
	for i, d := range devices {
		if !d.Served() {
			continue
		}
		after, err1 := d.Usage()
		now, err2 := d.Threads()
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		r := result.Idle{Peer: d.Peer.Name, Queues: queues, Seconds: seconds,
			Server: after.Sub(before[i]), Threads: switched(threads[i], now)}
		b.res.Idle = append(b.res.Idle, r)
		_, _ = fmt.Fprintf(b.out, "idle %-10s %d voluntary and %d involuntary context switches "+
			"in %.0f s: %+v\n", r.Peer, r.Server.Voluntary, r.Server.Involuntary, seconds,
			r.Threads)
	}
	return nil
}

// switched returns the threads that the kernel switched to between two readings, and how often.
func switched(before, after []peer.Thread) []peer.Thread {
	var out []peer.Thread
	for _, t := range after {
		for _, o := range before {
			if o.ID == t.ID {
				t.Voluntary -= o.Voluntary
				t.Involuntary -= o.Involuntary
			}
		}
		if t.Voluntary != 0 || t.Involuntary != 0 {
			out = append(out, t)
		}
	}
	return out
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
