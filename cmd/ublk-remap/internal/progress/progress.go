// Package progress tells people how far a long operation is: how much is done, how fast, and how
// long the rest will take. All verbs that can take longer than two seconds use it.
//
// On a terminal it keeps one line, which it wipes off at the end. Where there is no terminal, and
// with TERM=dumb, it writes nothing: what a program reads from standard error is the message of an
// error, in one line. A short operation says nothing either. The package keeps nothing running
// after End.
package progress

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"ublkremap/internal/readable"
)

const (
	// After is how long an operation may take before anything is said of it.
	After = 2 * time.Second
	// often is how often the line is drawn again.
	often = 250 * time.Millisecond
	// smooth is over what time the rate is smoothed.
	smooth = 5 * time.Second
	// barWidth is how many columns the bar takes, where the terminal has them.
	barWidth = 20
	wipe     = "\r\x1b[K"
)

// Out is where progress is written. A program has one for its standard error.
type Out struct {
	W io.Writer
	// Off: nothing is written at all.
	Off bool
	// Tests set these. Width is the columns of the terminal; 0: there is none.
	Width func() int

	mu   sync.Mutex
	line bool // a line of progress is on the terminal
}

// NewOut returns an Out that finds out by itself whether w is a terminal.
func NewOut(w io.Writer) *Out { return &Out{W: w, Width: func() int { return Width(w) }} }

// Width returns the columns of a terminal that can move its cursor, and 0 if w is none.
func Width(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	switch {
	case err != nil:
		return 0
	case size.Col == 0:
		return 80 // a terminal that does not know
	}
	return int(size.Col)
}

// Clear wipes off the line of progress, so that something else can be written. The line comes back
// by itself.
func (o *Out) Clear() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clear()
}

func (o *Out) clear() {
	if o.line {
		_, _ = io.WriteString(o.W, wipe)
		o.line = false
	}
}

// show writes a line. The width is asked for each time, because windows change.
func (o *Out) show(text func(width int) string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	width := o.Width()
	if width == 0 {
		return
	}
	// A line that fills the last column wraps on some terminals, and so does the ^C of somebody who
	// interrupts. What has wrapped is not wiped off.
	width -= len("^C") + 1
	_, _ = io.WriteString(o.W, wipe+cut(text(max(width, 0)), width))
	o.line = true
}

// cut shortens a text to so many columns.
func cut(text string, columns int) string {
	if utf8.RuneCountInString(text) <= columns {
		return text
	}
	return string([]rune(text)[:max(0, columns)])
}

// Bar is the progress of one operation. Any goroutine may call its methods.
type Bar struct {
	out  *Out
	stop chan struct{}
	end  sync.WaitGroup

	mu sync.Mutex
	m  meter
}

// Start begins to tell of an operation. The caller must call End. what says in a few words what is
// done, and is safe to print.
func (o *Out) Start(what string) *Bar {
	b := &Bar{out: o, stop: make(chan struct{}), m: newMeter(what, time.Now())}
	if !o.Off && o.Width() > 0 {
		b.end.Go(b.run)
	}
	return b
}

func (b *Bar) run() {
	next := time.NewTimer(After)
	defer next.Stop()
	for {
		select {
		case <-next.C:
			b.out.show(b.text)
			next.Reset(often)
		case <-b.stop:
			return
		}
	}
}

func (b *Bar) text(width int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.m.text(time.Now(), width)
}

// Set notes how much is done and how much there is, in bytes. A total of 0 is not known.
func (b *Bar) Set(done, total int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.m.set(time.Now(), done, total)
}

// Expected notes how much there is, beside what is done already.
func (b *Bar) Expected(total int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.m.total = max(total, b.m.done)
}

// Add notes that more is done, in bytes. It grows the total if that is too small.
func (b *Bar) Add(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.m.set(time.Now(), b.m.done+n, max(b.m.total, b.m.done+n))
}

// Note adds a few words at the end, in place of the last ones.
func (b *Bar) Note(words string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.m.note = words
}

// End stops telling, and leaves the line of a terminal empty. It may be called again.
func (b *Bar) End() {
	b.mu.Lock()
	ended := b.m.ended
	b.m.ended = true
	b.mu.Unlock()
	if ended {
		return
	}
	close(b.stop)
	b.end.Wait()
	b.out.Clear()
}

// meter knows how far an operation is. It keeps no clock.
type meter struct {
	what        string
	note        string
	began       time.Time
	done, total int64 // bytes
	ended       bool

	// The rate is that of the last moments. An operation that begins again further on, as after an
	// interruption, has not done what lies before that.
	rate  float64 // bytes a second
	first bool    // nothing was set yet
	at    time.Time
	last  int64
}

func newMeter(what string, now time.Time) meter {
	return meter{what: what, began: now, at: now, first: true}
}

func (m *meter) set(now time.Time, done, total int64) {
	m.done, m.total = done, max(total, 0)
	since := now.Sub(m.at)
	if m.first && done > 0 && since < After {
		// What was there from the beginning was not done just now.
		m.first, m.last, m.at = false, done, now
		return
	}
	m.first = false
	if since < smooth/10 {
		return
	}
	rate := float64(max(done-m.last, 0)) / since.Seconds()
	if m.rate == 0 {
		m.rate = rate
	} else {
		share := min(since.Seconds()/smooth.Seconds(), 1)
		m.rate += (rate - m.rate) * share
	}
	m.at, m.last = now, done
}

// speed returns the rate as it is now: nothing is done while nothing is told.
func (m *meter) speed(now time.Time) float64 {
	if quiet := now.Sub(m.at); quiet > smooth {
		return m.rate * float64(smooth) / float64(quiet)
	}
	return m.rate
}

// text is the line, with a bar if that fits into width columns.
func (m *meter) text(now time.Time, width int) string {
	var b strings.Builder
	b.WriteString(m.what)
	since := now.Sub(m.began)
	if m.total > 0 {
		done := min(m.done, m.total)
		fmt.Fprintf(&b, ": %d%% of %s", int64(100*float64(done)/float64(m.total)),
			readable.Bytes(m.total))
	}
	if rate := m.speed(now); rate >= 1 {
		fmt.Fprintf(&b, ", %s", readable.Rate(rate))
		if left := m.total - m.done; left > 0 {
			fmt.Fprintf(&b, ", %s left", readable.Duration(seconds(float64(left)/rate)))
		}
	}
	fmt.Fprintf(&b, ", %s so far", readable.Duration(since))
	if m.note != "" {
		b.WriteString(", " + m.note)
	}
	if room := width - utf8.RuneCountInString(b.String()); m.total > 0 && room > barWidth+3 {
		n := int(barWidth * min(1, float64(m.done)/float64(m.total)))
		return "[" + strings.Repeat("#", n) + strings.Repeat("-", barWidth-n) + "] " + b.String()
	}
	return b.String()
}

// seconds is a time, of which the longest is a hundred years.
func seconds(s float64) time.Duration {
	return time.Duration(min(s, 100*365*24*3600) * float64(time.Second))
}
