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

// How often a long operation reports its progress.
const (
	progressAfter = 2 * time.Second
	progressTerm  = 500 * time.Millisecond // on a terminal, in one line
	progressLines = 10 * time.Second       // elsewhere, in lines
)

// progress prints to standard error how far a long operation is, also while the operation waits for
// a disk. It prints nothing about a short operation. Any goroutine may call its methods.
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

// progress begins to print. The caller must call end.
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

// Expect implements prepare.Progress.
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

// Add implements prepare.Progress.
func (p *progress) Add(n int64, bad int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done, p.bad = p.done+n, bad
	p.total = max(p.total, p.done)
}

// set notes how much is done, and how much there is in total.
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

// progressText returns one line: how much is done, how fast, how long the rest will take, and how
// many bad places were found.
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
