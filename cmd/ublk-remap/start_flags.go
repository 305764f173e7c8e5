package main

import (
	"fmt"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/size"
	"ublkremap/internal/control"
	"ublkremap/internal/server"
	"ublkremap/remap"
	"ublkremap/ublk"
)

// config returns the configuration that the flags of start describe. The error is exit.ErrUsage if
// the flags make no sense.
func (o *startOptions) config() (server.Config, error) {
	cfg := server.Config{
		Spares: o.spares, ID: int(o.id), Queues: o.queues, Depth: o.depth, Poll: o.poll,
		HugePages: o.hugePages, Predecessor: o.predecessor, Kill: o.kill, Claim: o.claim,
		Policy: remap.Policy{
			Retries: o.retries, MaxBad: o.maxBad, IsolateFor: o.isolate, FailFast: o.failFast,
			ResourceFor: o.resource, Burst: o.budget, PerSecond: o.rate,
		},
	}
	if o.failFast == 0 {
		cfg.Policy.FailFast = -1 // zero means the default in a Policy
	}
	if err := o.inRange(); err != nil {
		return cfg, err
	}
	max, err := size.Parse(o.maxIO)
	if err != nil {
		return cfg, fmt.Errorf("--max-io %w", err)
	}
	n, exact := max.Exact()
	if !exact || n < 64<<10 || n > 1<<20 || n&(n-1) != 0 {
		return cfg, badFlag("max-io", o.maxIO, "a power of two from 64KiB to 1MiB")
	}
	cfg.MaxIO = int(n)
	for _, f := range []struct {
		flag, value string
		choice      *ublk.Choice
	}{{"zero-copy", o.zeroCopy, &cfg.ZeroCopy}, {"batch-io", o.batchIO, &cfg.BatchIO}} {
		var known bool
		if *f.choice, known = choices[f.value]; !known {
			return cfg, badFlag(f.flag, f.value, "auto, on or off")
		}
	}
	if cfg.Disks, err = recoveryLimit(o.recovery); err != nil {
		return cfg, err
	}
	if cfg.BatchIO == ublk.Require && o.depth < 2 {
		return cfg, badFlag("depth", o.depth, "2 or more with --batch-io=on")
	}
	return cfg, nil
}

// inRange refuses numbers and times that make no sense.
func (o *startOptions) inRange() error {
	for _, f := range []struct {
		flag  string
		value any
		ok    bool
		want  string
	}{
		{"id", o.id, o.id >= ublk.AnyID && o.id <= control.MaxID,
			fmt.Sprintf("0 to %d", control.MaxID)},
		{"queues", o.queues, o.queues >= 0 && o.queues <= 64, "1 to 64"},
		{"depth", o.depth, o.depth >= 1 && o.depth <= 1024, "1 to 1024"},
		{"poll", o.poll, o.poll >= 0 && o.poll <= maxPoll, "0 to " + maxPoll.String()},
		{"retries", o.retries, o.retries >= 1, "1 or more"},
		{"max-bad", o.maxBad, o.maxBad >= 1, "1 or more"},
		{"isolate-time", o.isolate, o.isolate > 0, "a time such as 2s"},
		{"fail-fast", o.failFast, o.failFast >= 0, "a time such as 60s, or 0"},
		{"resource-time", o.resource, o.resource > 0, "a time such as 30s"},
		{"remap-budget", o.budget, o.budget > 0, "1 or more"},
		{"remap-rate", o.rate, o.rate > 0, "1 or more"},
	} {
		if !f.ok {
			return badFlag(f.flag, f.value, f.want)
		}
	}
	return nil
}

func badFlag(flag string, value any, want string) error {
	return fmt.Errorf("--%s %v: %w: want %s", flag, value, exit.ErrUsage, want)
}

// choices are the values of flags about features that the kernel may lack.
var choices = map[string]ublk.Choice{"auto": ublk.Auto, "on": ublk.Require, "off": ublk.Never}
