package main

import (
	"context"
	"sync"
	"time"

	"ublkremap/cmd/ublk-remap/internal/verdict"
	"ublkremap/internal/control"
	"ublkremap/internal/drive"
	"ublkremap/internal/health"
	"ublkremap/internal/host"
)

const (
	// judgeEvery is how often a disk is judged anew: its drives are asked, and all entries of the
	// remap table are read.
	judgeEvery = time.Hour
	// judgeSoon is how soon it is judged again after it got worse.
	judgeSoon = 5 * time.Minute
)

// verdicts keeps the newest verdict on each disk. Judging takes seconds, so nobody waits for it.
type verdicts struct {
	mu  sync.Mutex
	of  map[string]*judged // by UUID
	one chan struct{}      // one disk at a time
}

// judged is a verdict on a disk.
type judged struct {
	health.Report
	at    time.Time
	worse uint64 // remapped, pending and lost, as they were then
	under bool   // it is being judged anew
}

func newVerdicts() *verdicts {
	return &verdicts{of: map[string]*judged{}, one: make(chan struct{}, 1)}
}

// get returns the verdict on a device's disk; ok says that there is one. It has the disk judged
// anew when it is time for that.
func (v *verdicts) get(ctx context.Context, st *control.Status, smart []string) (health.Report,
	bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	j := v.of[st.UUID]
	if j == nil {
		j = &judged{}
		v.of[st.UUID] = j
	}
	worse := st.Remaps + st.Pending + st.Lost
	age := time.Since(j.at)
	if !j.under && (age >= judgeEvery || worse != j.worse && age >= judgeSoon) {
		j.under = true
		copied := *st
		go v.judge(context.WithoutCancel(ctx), &copied, smart, worse)
	}
	return j.Report, j.Verdict != ""
}

// judge judges a disk.
func (v *verdicts) judge(ctx context.Context, st *control.Status, smart []string, worse uint64) {
	v.one <- struct{}{}
	defer func() { <-v.one }()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	var report health.Report
	h := host.Host{}
	r, err := h.Lookup(st.UUID)
	if err == nil {
		var seen *health.Seen
		if seen, err = verdict.Seen(ctx, r, st); err == nil && !seen.Unknown {
			report = health.Judge(seen, verdict.Drives(ctx, r, drive.ReportOptions{Types: smart}))
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	j := v.of[st.UUID]
	j.at, j.worse, j.under = time.Now(), worse, false
	if report.Verdict != "" {
		j.Report = report
	}
}
