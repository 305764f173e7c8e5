package main

import (
	"context"
	"fmt"
	"time"

	"ublkremap/internal/control"
	"ublkremap/internal/readable"
	"ublkremap/internal/shell"
)

// plannedScrub is what scrub start --dry-run prints as JSON.
type plannedScrub struct {
	Device       string `json:"device"`
	Total        uint64 `json:"total"`      // blocks
	RateLimit    uint64 `json:"rate_limit"` // bytes a second
	LeastS       uint64 `json:"least_s"`    // how many seconds that takes at least
	Idle         bool   `json:"idle"`
	IntervalS    uint64 `json:"interval_s"`
	RelocateSlow bool   `json:"relocate_slow"`
	NoRetest     bool   `json:"no_retest"`
	DryRun       bool   `json:"dry_run"`
}

// wouldScrub says what scrub start would do.
func (a *app) wouldScrub(ctx context.Context, name string, ask control.ScrubRequest) error {
	r, err := a.host().Lookup(name)
	if err != nil {
		return err
	}
	st, err := askScrub(ctx, r, control.ScrubRequest{Do: control.ScrubShow})
	if err != nil {
		return err
	}
	if st.State != "idle" {
		return fmt.Errorf("%s: scrub start: %w: there is a scrub, and it is %s; see: %s", r.Device,
			control.ErrRefused, st.State, shell.Command("scrub", "status", r.Name))
	}
	out := plannedScrub{Device: r.Device, Total: r.Blocks, RateLimit: ask.Rate,
		LeastS: uint64(sizeOf(r))/ask.Rate + 1, Idle: ask.Idle, IntervalS: ask.IntervalS,
		RelocateSlow: ask.RelocateSlow, NoRetest: ask.NoRetest, DryRun: true}
	if a.json {
		return a.printJSON(out)
	}
	_, err = fmt.Fprint(a.out, out.text(sizeOf(r)))
	return err
}

func (p *plannedScrub) text(bytes int64) string {
	text := fmt.Sprintf("%s: would read %s, at most %s: in %s or longer\n", p.Device,
		readable.Bytes(bytes), readable.Rate(float64(p.RateLimit)),
		readable.Duration(time.Duration(p.LeastS)*time.Second))
	if p.Idle {
		text += "would read only while nobody uses the device\n"
	}
	if p.RelocateSlow {
		text += "would move blocks that are slow to read to the spare region\n"
	}
	if !p.NoRetest {
		text += "would then test whether the homes of remapped blocks are well again\n"
	}
	if p.IntervalS > 0 {
		text += fmt.Sprintf("would read everything again %s after that\n",
			readable.Duration(time.Duration(p.IntervalS)*time.Second))
	}
	return text
}
