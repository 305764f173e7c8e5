package progress

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"

	"ublkremap/internal/readable"
)

// TestMeter: what is done, how fast and how long the rest takes follows the last moments. What was
// done before an interruption does not count for the rate.
func TestMeter(t *testing.T) {
	now := time.Unix(1e9, 0)
	m := newMeter("copying", now)
	m.set(now, 400<<20, 1000<<20)
	for range 60 {
		now = now.Add(time.Second)
		m.set(now, m.done+4<<20, 1000<<20)
	}
	const want = "copying: 64% of 1000 MiB, 4.0 MiB/s, 1m30s left, 1m0s so far"
	for width, want := range map[int]string{
		100: "[############--------] " + want, 70: want, len(want): want,
		len(want) - 1: "copying: 64% of 1000 MiB, 4.0 MiB/s, 1m30s left",
		46:            "copying: 64% of 1000 MiB, 1m30s left",
		30:            "copying: 64%, 1m30s left",
		24:            "copying: 64%, 1m30s left",
		23:            "copyi…: 64%, 1m30s left", 21: "64%, 1m30s left", 17: "64%, 1m30s left",
		10: "64%, 1m30s"[:10], 0: "",
	} {
		if got := m.text(now, width); got != want {
			t.Errorf("in %d columns: %q, want %q", width, got, want)
		}
	}
	// A disk that does not answer slows the rate down, and the time that is left grows.
	stuck := m.text(now.Add(30*time.Second), 80)
	if !strings.Contains(stuck, "683 KiB/s") || !strings.Contains(stuck, "9m0s left") {
		t.Errorf("after half a minute without an answer: %q", stuck)
	}
}

// TestAddCounts: what is added was done just now, also the first time.
func TestAddCounts(t *testing.T) {
	b := (&Out{Off: true}).Start("x")
	b.Expected(100 << 20)
	b.m.began = b.m.began.Add(-time.Second)
	b.m.at = b.m.began
	b.Add(10 << 20)
	if got := b.m.speed(time.Now()); got < 5<<20 || got > 11<<20 {
		t.Errorf("%v bytes a second", got)
	}
}

// TestMeterOddNumbers: no number makes it divide by nothing, or say more than all.
func TestMeterOddNumbers(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, n := range [][2]int64{{0, 0}, {5, 0}, {10, 5}, {0, -3}, {1 << 62, 1 << 62},
		{1, 1<<63 - 1}} {
		m := newMeter("x", now)
		m.set(now.Add(3*time.Second), n[0], n[1])
		text := m.text(now.Add(3*time.Second), 200)
		if strings.Contains(text, "-1") || strings.Contains(text, "NaN") ||
			strings.Contains(text, "200%") {
			t.Errorf("%v: %q", n, text)
		}
	}
}

// TestUnits: what is counted need not be bytes, and how much there is need not be known.
func TestUnits(t *testing.T) {
	now := time.Unix(1e9, 0)
	m := newMeter("looking for owners", now)
	m.unit = "files"
	for range 60 {
		now = now.Add(time.Second)
		m.set(now, m.done+2500, 0)
	}
	want := "looking for owners: 150,000 files, 2,500/s, 1m0s so far"
	if got := m.text(now, 79); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	m.set(now, 150000, 1000000)
	want = "looking for owners: 15% of 1,000,000 files, 2,500/s, 5m40s left, 1m0s so far"
	if got := m.text(now, 79); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	want = "lookin…: 150,000 files, 1m0s so far"
	m.set(now, 150000, 0)
	if got := m.text(now, len(want)-2); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	m = newMeter("stopping", now)
	m.note = "3 requests under way"
	if got := m.text(now.Add(5*time.Second), 79); got != "stopping: 5s so far, 3 requests "+
		"under way" {
		t.Error(got)
	}
}

// buffer is written to by a bar while a test reads it.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestTerminalLine: the line never reaches the last column, follows the width of the window, and is
// wiped off before something else is written and at the end.
func TestTerminalLine(t *testing.T) {
	width := 40
	w := &buffer{}
	o := &Out{W: w, Width: func() int { return width }}
	b := &Bar{out: o, stop: make(chan struct{}), m: newMeter(strings.Repeat("東", 60), time.Now())}
	for _, width = range []int{40, 200, 10, 1} {
		o.show(b.text)
		lines := strings.Split(w.String(), wipe)
		if n := readable.Columns(lines[len(lines)-1]); n > max(width-3, 0) {
			t.Errorf("%d columns of %d", n, width)
		}
	}
	o.Clear()
	if !strings.HasSuffix(w.String(), wipe) {
		t.Errorf("not wiped off: %q", w.String())
	}
	before := w.String()
	b.End()
	b.End()
	if w.String() != before {
		t.Errorf("there was nothing more to wipe off: %q", w.String())
	}
	if strings.Contains(w.String(), "\n") {
		t.Errorf("a line ended: %q", w.String())
	}
}

// TestNoTerminal: without a terminal nothing is written.
func TestNoTerminal(t *testing.T) {
	w := &buffer{}
	o := &Out{W: w, Width: func() int { return 0 }}
	b := o.Start("reading")
	b.Set(1, 100)
	o.show(b.text)
	b.End()
	if got := w.String(); got != "" {
		t.Errorf("%q", got)
	}
}

// TestShortOperationsAreSilent: an operation that ends at once says nothing, and one that is not to
// be told of neither.
func TestShortOperationsAreSilent(t *testing.T) {
	w := &buffer{}
	o := NewOut(w)
	b := o.Start("x")
	b.Set(1, 2)
	b.End()
	o.Off = true
	b = o.Start("y")
	b.End()
	if w.String() != "" {
		t.Errorf("%q", w.String())
	}
}
