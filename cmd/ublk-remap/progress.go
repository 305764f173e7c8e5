package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"ublkremap/cmd/ublk-remap/internal/badblocks"
	"ublkremap/cmd/ublk-remap/internal/logging"
)

// How often a long operation says how far it is.
const (
	progressAfter = 2 * time.Second
	progressTerm  = 500 * time.Millisecond // on a terminal, in one line
	progressLines = 10 * time.Second       // elsewhere, in lines
)

// progress prints to standard error how far a long operation is, also while it waits for a disk.
// It prints nothing about a short one. Its methods may be called from any goroutine.
type progress struct {
	w     io.Writer
	term  bool
	what  string
	began time.Time
	stop  chan struct{}
	ended sync.WaitGroup

	mu          sync.Mutex
	done, total int64 // bytes
	bad         int
	shown       bool
}

// progress begins to print. Its end must be called.
func (a *app) progress(what string) *progress {
	p := &progress{w: a.err, what: what, began: time.Now(), stop: make(chan struct{})}
	if f, ok := a.err.(*os.File); ok {
		p.term = logging.Terminal(f)
	}
	p.ended.Go(p.run)
	return p
}

func (p *progress) run() {
	every := progressLines
	if p.term {
		every = progressTerm
	}
	next := time.NewTimer(progressAfter)
	defer next.Stop()
	for {
		select {
		case <-next.C:
			p.show()
			next.Reset(every)
		case <-p.stop:
			return
		}
	}
}

// Expect is prepare.Progress's.
func (p *progress) Expect(places [][]badblocks.Range) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total = 0
	for _, list := range places {
		for _, r := range list {
			p.total += r.End - r.Start
		}
	}
	p.total = max(p.total, p.done)
}

// Add is prepare.Progress's.
func (p *progress) Add(n int64, bad int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done, p.bad = p.done+n, bad
	p.total = max(p.total, p.done)
}

// set notes how much of how much is done.
func (p *progress) set(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done, p.total = done, total
}

func (p *progress) show() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shown = true
	text := progressText(p.what, p.done, p.total, p.bad, time.Since(p.began))
	if p.term {
		_, _ = fmt.Fprintf(p.w, "\r%s\x1b[K", text)
	} else {
		_, _ = fmt.Fprintln(p.w, text)
	}
}

// progressText is one line: how much is done, how fast, how long the rest will take, and
// what was met.
func progressText(what string, done, total int64, bad int, since time.Duration) string {
	text := what
	if total > 0 {
		text += fmt.Sprintf(": %d%% of %s", 100*done/total, sizeText(total))
	}
	if rate := int64(float64(done) / max(since.Seconds(), 1e-9)); rate > 0 {
		text += fmt.Sprintf(", %s/s", sizeText(rate))
		if left := total - done; left > 0 {
			text += fmt.Sprintf(", %s left",
				time.Duration(float64(left)/float64(rate)*float64(time.Second)).Round(time.Second))
		}
	}
	text += fmt.Sprintf(", %s so far", since.Round(time.Second))
	if bad > 0 {
		text += fmt.Sprintf(", %d bad units", bad)
	}
	return text
}

// end stops printing.
func (p *progress) end() {
	close(p.stop)
	p.ended.Wait()
	if p.shown && p.term {
		_, _ = fmt.Fprintln(p.w)
	}
}
