// Package progress tells people how far a long operation is: how much is done, how fast, and how
// long the rest will take. All verbs that can take longer than two seconds use it.
//
// On a terminal it keeps one line, which it wipes off at the end. Where there is no terminal, and
// with TERM=dumb, it writes nothing: what a program reads from standard error is the message of an
// error, in one line. A short operation says nothing either, nor one in the background of a shell,
// whose line belongs to the shell. The package keeps nothing running after End.
//
// The line has no colours. It follows the width of the window, and says less in a narrow one. When
// a window becomes narrower than the line is, most terminals break the line in two by themselves;
// then the upper part stays where it is.
package progress

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

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
	// Interrupted is closed when the user has asked for the end, say by Ctrl-C. From then on there
	// is no line, so that a second Ctrl-C, which ends the program at once, leaves none behind. nil:
	// never.
	Interrupted <-chan struct{}
	// Width is the columns of the terminal; 0: there is none to write to now. Tests set it.
	Width func() int

	mu   sync.Mutex
	line bool // a line of progress is on the terminal
}

// NewOut returns an Out that finds out by itself whether w is a terminal.
func NewOut(w io.Writer) *Out {
	return &Out{W: w, Width: func() int {
		if background(w) {
			return 0
		}
		return Width(w)
	}}
}

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

// background reports whether w is this process' terminal, and another job has it now.
func background(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	group, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPGRP)
	return err == nil && group != 0 && group != unix.Getpgrp()
}

// Clear wipes off the line of progress, so that something else can be written. The line comes back
// by itself.
func (o *Out) Clear() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clear()
}

func (o *Out) clear() {
	if o.line && o.Width() > 0 {
		_, _ = io.WriteString(o.W, wipe)
	}
	o.line = false
}

// interrupted tells somebody who has asked for the end that it takes a moment.
func (o *Out) interrupted(what string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.Width() > 0 {
		_, _ = fmt.Fprintf(o.W, "interrupted: %s ends when what is under way is done; once more "+
			"ends it at once\n", what)
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
	width = max(width-len("^C")-1, 0)
	_, _ = io.WriteString(o.W, wipe+readable.Cut(text(width), width))
	o.line = true
}

// Bar is the progress of one operation. Any goroutine may call its methods.
type Bar struct {
	out  *Out
	told bool
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
		b.told = true
		b.end.Go(b.run)
	}
	return b
}

// Told reports whether anybody will be told. If not, nobody needs to find out how far it is.
func (b *Bar) Told() bool { return b.told }

func (b *Bar) run() {
	next := time.NewTimer(After)
	defer next.Stop()
	interrupted, ending := b.out.Interrupted, false
	for {
		select {
		case <-next.C:
			if ending {
				b.out.interrupted(b.m.what)
				continue
			}
			b.out.show(b.text)
			next.Reset(often)
		case <-interrupted:
			b.out.Clear()
			interrupted, ending = nil, true
			next.Reset(After)
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

// Unit begins to count something else, such as "blocks", from 0 on. Without it bytes are counted.
func (b *Bar) Unit(unit string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := newMeter(b.m.what, time.Now())
	next.unit, next.began, next.note, next.ended = unit, b.m.began, b.m.note, b.m.ended
	b.m = next
}

// Set notes how much is done and how much there is. A total of 0 is not known.
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

// Add notes that more is done. It grows a total that is known and too small.
func (b *Bar) Add(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.m.first = false // this was done just now
	done, total := b.m.done+n, b.m.total
	if total > 0 {
		total = max(total, done)
	}
	b.m.set(time.Now(), done, total)
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
	unit        string // empty: bytes
	note        string
	began       time.Time
	done, total int64 // of the unit
	ended       bool

	// The rate is that of the last moments. An operation that begins again further on, as after an
	// interruption, has not done what lies before that.
	rate  float64 // a second
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

// text is the line in width columns, with a bar if that fits. In a narrow window it says less: how
// much is done and how long it takes is what remains.
func (m *meter) text(now time.Time, width int) string {
	done, share := m.amounts()
	rate, left := "", ""
	if r := m.speed(now); r >= 1 {
		rate = m.perSecond(r)
		if rest := m.total - m.done; rest > 0 {
			left = readable.Duration(seconds(float64(rest)/r)) + " left"
		}
	}
	since := readable.Duration(now.Sub(m.began)) + " so far"
	takes := cmp.Or(left, since)
	if left == "" {
		since = ""
	}
	for _, parts := range [][]string{
		{done, rate, takes, since, m.note}, {done, rate, takes, m.note},
		{done, rate, takes}, {done, takes}, {share, takes}} {
		text := m.what + ": " + joined(parts)
		if room := width - readable.Columns(text); m.total > 0 && room > barWidth+3 {
			n := int(barWidth * min(1, float64(m.done)/float64(m.total)))
			return "[" + strings.Repeat("#", n) + strings.Repeat("-", barWidth-n) + "] " + text
		} else if room >= 0 {
			return text
		}
	}
	text := joined([]string{share, takes})
	const few = 6 // columns, of which it makes sense to say what is done
	if room := width - len(text) - len(": "); room >= few {
		return readable.Fit(m.what, room) + ": " + text
	}
	return readable.Cut(text, width)
}

// amounts is how much is done, at length and in short.
func (m *meter) amounts() (done, share string) {
	amount := func(n int64) string {
		if m.unit == "" {
			return readable.Bytes(n)
		}
		return readable.Number(uint64(max(n, 0))) + " " + m.unit
	}
	switch {
	case m.total > 0:
		share = fmt.Sprintf("%d%%", int64(100*float64(min(m.done, m.total))/float64(m.total)))
		return share + " of " + amount(m.total), share
	case m.done > 0:
		return amount(m.done), amount(m.done)
	}
	return "", ""
}

func (m *meter) perSecond(rate float64) string {
	if m.unit == "" {
		return readable.Rate(rate)
	}
	return readable.Number(uint64(rate)) + "/s"
}

// joined joins those of the parts that are there.
func joined(parts []string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ", ")
}

// seconds is a time, of which the longest is a hundred years.
func seconds(s float64) time.Duration {
	return time.Duration(min(s, 100*365*24*3600) * float64(time.Second))
}
