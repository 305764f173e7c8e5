package logging

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// Limits of the lines that wait to be written.
const (
	asyncLines = 512
	asyncBytes = 512 // of a line, made in advance; longer ones cost an allocation
)

// Async is a writer that never waits. A goroutine writes the lines. Lines are dropped when too many
// wait. A server logs through it, because the reader of its log may wait for the device that it
// serves: a journal may be on a file system there, or the log file's memory may be swapped out to
// it.
type Async struct {
	to zerolog.LevelWriter

	mu      sync.Mutex
	more    sync.Cond
	lines   [asyncLines]line // a ring
	first   int
	count   int
	dropped int
	closing bool
	done    chan struct{}
}

type line struct {
	level zerolog.Level
	text  []byte
}

// newAsync returns a writer in front of w. Close it.
func newAsync(w io.Writer) *Async {
	to, ok := w.(zerolog.LevelWriter)
	if !ok {
		to = zerolog.LevelWriterAdapter{Writer: w}
	}
	a := &Async{to: to, done: make(chan struct{})}
	a.more.L = &a.mu
	for i := range a.lines {
		a.lines[i].text = make([]byte, 0, asyncBytes)
	}
	go a.run()
	return a
}

// Write adds a line without a level.
func (a *Async) Write(p []byte) (int, error) { return a.WriteLevel(zerolog.NoLevel, p) }

// WriteLevel adds a line. It does not fail.
func (a *Async) WriteLevel(level zerolog.Level, p []byte) (int, error) {
	a.mu.Lock()
	if a.count == len(a.lines) {
		a.dropped++
	} else {
		l := &a.lines[(a.first+a.count)%len(a.lines)]
		l.level, l.text = level, append(l.text[:0], p...)
		a.count++
	}
	a.mu.Unlock()
	a.more.Signal()
	return len(p), nil
}

// Close waits until everything is written, but not longer than within.
func (a *Async) Close(within time.Duration) {
	a.mu.Lock()
	a.closing = true
	a.mu.Unlock()
	a.more.Signal()
	select {
	case <-a.done:
	case <-time.After(within):
	}
}

func (a *Async) run() {
	defer close(a.done)
	var out line
	for {
		a.mu.Lock()
		for a.count == 0 && !a.closing {
			a.more.Wait()
		}
		if a.count == 0 {
			a.mu.Unlock()
			return
		}
		// The memory of the line is exchanged for that of the last one.
		l := &a.lines[a.first]
		out, *l = *l, line{text: out.text[:0]}
		a.first = (a.first + 1) % len(a.lines)
		a.count--
		dropped := a.dropped
		a.dropped = 0
		a.mu.Unlock()
		// If this fails, there is no place to report it.
		_, _ = a.to.WriteLevel(out.level, out.text)
		if dropped > 0 {
			_, _ = a.to.WriteLevel(zerolog.WarnLevel,
				fmt.Appendf(nil, "{\"level\":\"warn\",\"lines\":%d,\"message\":\"the log could "+
					"not keep up: lines were dropped\"}\n", dropped))
		}
	}
}
