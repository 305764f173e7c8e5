package top

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"
	"github.com/charmbracelet/x/ansi"

	"ublkremap/internal/control"
)

var update = flag.Bool("update", false, "write the screens of testdata anew")

// screen is a Model without a terminal, whose questions are answered one after the other.
type screen struct {
	t     *testing.T
	m     *Model
	src   *fake
	time  time.Time
	drawn func() // as a program does after each message; nil: nothing
	open  int    // questions that are not answered, because their server hangs
}

func newScreen(t *testing.T, width, height int, colours bool) *screen {
	can := Terminal{Colours: colorprofile.ASCII}
	if colours {
		can.Colours = colorprofile.ANSI256
	}
	return newScreenOn(t, width, height, can, 0)
}

// newScreenOn is newScreen on a terminal that can show this, with so many devices.
func newScreenOn(t *testing.T, width, height int, can Terminal, devices int) *screen {
	s := &screen{t: t, src: &fake{count: devices}, time: epoch}
	s.m = New(t.Context(), s.src, func() time.Time { return s.time }, can)
	s.m.tick = nil
	s.send(tea.WindowSizeMsg{Width: width, Height: height})
	s.run(s.m.Init())
	return s
}

// run carries out a command, and all that follow from it. The server that hangs never answers.
func (s *screen) run(cmd tea.Cmd) {
	if cmd == nil {
		return
	}
	switch msg := cmd().(type) {
	case nil:
	case tea.BatchMsg:
		for _, c := range msg {
			s.run(c)
		}
	case statusMsg:
		if errors.Is(msg.err, errHangs) {
			s.open++
			return
		}
		s.send(msg)
	default:
		s.send(msg)
	}
}

func (s *screen) send(msg tea.Msg) {
	_, cmd := s.m.Update(msg)
	if s.drawn != nil {
		s.drawn()
	}
	s.run(cmd)
}

// pass lets time pass, second by second.
func (s *screen) pass(seconds int) {
	for range seconds {
		s.time = s.time.Add(time.Second)
		s.src.beats++
		s.send(tickMsg{})
	}
}

func (s *screen) press(keys ...string) {
	for _, k := range keys {
		code := map[string]rune{"tab": tea.KeyTab, "left": tea.KeyLeft, "right": tea.KeyRight,
			"shift+tab": tea.KeyTab,
			"up":        tea.KeyUp, "down": tea.KeyDown, "home": tea.KeyHome, "end": tea.KeyEnd,
			"pgdown": tea.KeyPgDown, "pgup": tea.KeyPgUp}[k]
		key := tea.Key{Code: code}
		if strings.HasPrefix(k, "shift+") {
			key.Mod = tea.ModShift
		}
		if code == 0 {
			key = tea.Key{Code: []rune(k)[0], Text: k}
		}
		s.send(tea.KeyPressMsg(key))
	}
}

// plain is the screen without colours. It checks that nothing is wider or higher than the window,
// and that nothing commands the terminal.
func (s *screen) plain() string {
	s.t.Helper()
	shown := s.m.screen()
	text := ansi.Strip(shown)
	lines := strings.Split(text, "\n")
	if len(lines) > s.m.height {
		s.t.Errorf("%d lines of %d", len(lines), s.m.height)
	}
	for i, line := range lines {
		if ansi.StringWidth(line) > s.m.width {
			s.t.Errorf("line %d has %d columns of %d: %s", i, ansi.StringWidth(line), s.m.width,
				line)
		}
		if strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
			s.t.Errorf("line %d: %q", i, line)
		}
		lines[i] = strings.TrimRight(line, " ")
	}
	return strings.Join(lines, "\n") + "\n"
}

// golden compares the screen with the one of testdata.
func (s *screen) golden(name string) {
	s.t.Helper()
	compare(s.t, name, s.plain())
}

func compare(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

// TestScreens: the screens of a fixed host, at several sizes, in colour and in letters.
func TestScreens(t *testing.T) {
	s := newScreen(t, 80, 24, false)
	s.pass(4)
	s.golden("80x24")
	s.press("tab")
	s.pass(1)
	s.press("n", "n")
	s.golden("80x24-media")
	s.press("tab")
	s.pass(1)
	s.golden("80x24-hostile")
	s.press("tab")
	s.pass(4)
	s.golden("80x24-stuck")
	s.press("?")
	s.golden("80x24-help")
	for _, size := range [][2]int{{132, 43}, {40, 16}, {20, 5}, {400, 100}} {
		s := newScreen(t, size[0], size[1], true)
		s.press("tab")
		s.pass(2)
		if size[0] < 200 {
			s.golden(map[int]string{132: "132x43-colour", 40: "40x16-colour", 20: "20x5"}[size[0]])
		} else {
			s.plain()
		}
	}
}

// TestSizes: of one device, of three and of 64 something is shown in every window, and in the usual
// ones what matters most. Keys and the mouse do no harm in any.
func TestSizes(t *testing.T) {
	for _, n := range []int{1, 3, 64} {
		s := newScreenOn(t, 80, 24, Terminal{Colours: colorprofile.ANSI256}, n)
		s.pass(2)
		for _, width := range []int{1, 2, 5, 10, 29, 39, 40, 41, 79, 80, 200} {
			for _, height := range []int{1, 2, 3, 5, 10, 15, 16, 17, 24, 60} {
				s.send(tea.WindowSizeMsg{Width: width, Height: height})
				s.press("tab", "a", "right", "+", "n", "?", "x", "m")
				s.send(tea.MouseMotionMsg{X: width / 2, Y: height / 2})
				s.send(tea.MouseWheelMsg{X: width / 2, Y: height / 2, Button: tea.MouseWheelUp})
				s.pass(1)
				if text := s.plain(); strings.TrimSpace(text) == "" {
					t.Errorf("%d devices, %dx%d: nothing is shown", n, width, height)
				}
			}
		}
		for _, size := range [][2]int{{40, 10}, {80, 24}, {200, 60}} {
			s := newScreenOn(t, size[0], size[1], Terminal{Colours: colorprofile.ANSI256}, n)
			s.pass(2)
			s.press("a")
			s.golden(fmt.Sprintf("%d-devices-%dx%d", n, size[0], size[1]))
		}
	}
}

// TestDrawnSeldom: with 64 devices the screen is drawn some times in a second, not after each
// answer, and with the next tick it shows all answers.
func TestDrawnSeldom(t *testing.T) {
	s := newScreenOn(t, 80, 24, Terminal{}, 64)
	s.pass(2)
	drawn, last := 0, s.m.View().Content
	s.drawn = func() {
		if !s.m.kept {
			drawn++
		}
		last = s.m.View().Content
	}
	s.pass(1)
	if drawn == 0 || drawn > 10 {
		t.Errorf("drawn %d times", drawn)
	}
	st := *s.m.devices[2].st
	st.Name = "other"
	s.send(statusMsg{device: "/dev/ublkb2", st: &st})
	if strings.Contains(last, "other") {
		t.Error("drawn for a device that is not chosen")
	}
	s.pass(1)
	if !strings.Contains(last, "other") {
		t.Errorf("not shown:\n%s", last)
	}
}

// TestAttention: a and A go through the devices that need attention, and nowhere if there is none.
func TestAttention(t *testing.T) {
	s := newScreenOn(t, 80, 24, Terminal{}, 64)
	s.pass(1)
	for _, step := range []struct {
		key  string
		want int
	}{{"a", 1}, {"a", 2}, {"a", 1}, {"A", 2}, {"A", 1}, {"shift+tab", 0}} {
		if s.press(step.key); s.m.chosen().st.ID != step.want {
			t.Errorf("%s: %d, want %d", step.key, s.m.chosen().st.ID, step.want)
		}
	}
	s = newScreenOn(t, 80, 24, Terminal{}, 1)
	s.pass(1)
	if s.press("a", "A"); s.m.chosen() == nil || s.m.chosen().st.ID != 0 {
		t.Errorf("%+v", s.m.chosen())
	}
}

// TestASCII: where there is only ASCII nothing else is shown, and each character keeps its columns.
func TestASCII(t *testing.T) {
	s := newScreenOn(t, 80, 24, Terminal{Colours: colorprofile.ANSI256, ASCII: true}, 64)
	s.pass(4)
	s.m.devices[0].st.Name = "größe-東京-a-name-longer-than-its-column"
	for _, size := range [][2]int{{80, 24}, {40, 10}} {
		s.send(tea.WindowSizeMsg{Width: size[0], Height: size[1]})
		for range 3 {
			s.press("tab", "m", "?")
			help := s.m.screen()
			s.press("x")
			for _, text := range []string{help, s.m.screen(), s.plain()} {
				if strings.ContainsFunc(text, func(r rune) bool { return r >= utf8.RuneSelf }) {
					t.Errorf("%v: not all is ASCII:\n%s", size, text)
				}
			}
		}
	}
	s = newScreenOn(t, 80, 24, Terminal{Colours: colorprofile.ANSI256, ASCII: true}, 64)
	s.pass(4)
	s.m.devices[0].st.Name = "größe-東京-a-name-longer-than-its-column"
	s.golden("80x24-ascii")
}

// TestHangs: while a server hangs it is asked once and no more, the others go on, and the screen
// says since when.
func TestHangs(t *testing.T) {
	s := newScreen(t, 100, 30, false)
	s.pass(1)
	s.pass(9)
	if s.open != 1 {
		t.Errorf("it was asked %d times", s.open)
	}
	text := s.plain()
	if !strings.Contains(text, "no answer") {
		t.Errorf("nothing says that a server does not answer:\n%s", text)
	}
	if !strings.Contains(text, "50 MiB") {
		t.Errorf("the others do not go on:\n%s", text)
	}
	s.send(statusMsg{device: "/dev/ublkb3", st: (&fake{}).devices()[3]})
	if text := s.plain(); strings.Contains(text, "no answer") {
		t.Errorf("it answers again:\n%s", text)
	}
}

// TestServerDies: an error of a question is shown, with what was known before.
func TestServerDies(t *testing.T) {
	s := newScreen(t, 100, 30, false)
	s.send(statusMsg{device: "/dev/ublkb0", err: errors.New("no server\x1b[2J")})
	text := s.plain()
	if !strings.Contains(text, "unreachable: no server\\x1b[2J") {
		t.Errorf("%s", text)
	}
	s.send(listMsg{err: context.DeadlineExceeded})
	if text := s.plain(); !strings.Contains(text, "the list is old") {
		t.Errorf("%s", text)
	}
	s.send(listMsg{})
	if text := s.plain(); !strings.Contains(text, "No device is served here") {
		t.Errorf("%s", text)
	}
}

// TestNumbersAgain: the last events of a server that crashed are not on the disk, and the next one
// uses their numbers again. Its events are shown, and not those.
func TestNumbersAgain(t *testing.T) {
	s := newScreen(t, 120, 40, false)
	s.press("j", "enter")
	d := s.m.chosen()
	shown := func(recorded ...Event) (texts []string) {
		for i := range recorded {
			recorded[i].Number = uint64(i + 1)
		}
		s.src.events = func(from uint64) []Event {
			from = max(from, 1)
			return recorded[min(from-1, uint64(len(recorded))):]
		}
		s.run(s.m.askEvents(d))
		for _, e := range d.events {
			texts = append(texts, e.Text)
		}
		return texts
	}
	at := func(seconds int, text string) Event {
		return Event{Time: epoch.Add(time.Duration(seconds) * time.Second), Text: text}
	}
	kept := at(1, "kept")
	for _, c := range []struct{ recorded, want []string }{
		{[]string{"lost", "lost too"}, []string{"kept", "lost", "lost too"}},
		{[]string{"new"}, []string{"kept", "new"}},
		{[]string{"new", "newer"}, []string{"kept", "new", "newer"}},
	} {
		list := []Event{kept}
		for i, text := range c.recorded {
			list = append(list, at(2+i+10*len(text), text))
		}
		if got := shown(list...); !slices.Equal(got, c.want) {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	// Only the last ones are kept.
	many := make([]Event, maxEvents+50)
	for i := range many {
		many[i] = at(1000+i, strconv.Itoa(i))
	}
	if got := shown(many...); len(got) != maxEvents || got[0] != "50" {
		t.Errorf("%d events from %q on", len(got), got[0])
	}
}

// TestZoom: zooming keeps the block under the cursor there, down to single blocks and up to all.
func TestZoom(t *testing.T) {
	for _, colours := range []bool{false, true} {
		s := newScreen(t, 80, 24, colours)
		s.press("tab")
		s.pass(1)
		s.press("n", "n")
		d := s.m.chosen()
		const at = 1200000 // which is known only when the cells are small enough
		for range 40 {
			s.press("+")
			sp := s.m.span(d)
			if d.cur > at || at >= d.cur+sp.per || d.cur < sp.from ||
				d.cur >= sp.from+sp.cells*sp.per {
				t.Fatalf("cursor at %d, not at %d, of %+v", d.cur, at, sp)
			}
		}
		if sp := s.m.span(d); sp.per != 1 || d.cur != at {
			t.Errorf("%+v", sp)
		}
		if text := s.plain(); !strings.Contains(text, "block 1,200,000 (512 B") {
			t.Errorf("%s", text)
		}
		for range 40 {
			s.press("-")
		}
		if d.per != 0 || d.cur != at {
			t.Errorf("%d blocks a cell, cursor at %d", d.per, d.cur)
		}
		// To the ends, from every zoom.
		for _, zoom := range []string{"", "+++", "++++++++++++++++++++++++++++"} {
			s.press("0", "home")
			s.press(strings.Split(zoom, "")...)
			for _, k := range []string{"end", "right", "down", "pgdown", "home", "left", "up",
				"pgup", "pgdown"} {
				s.press(k)
				sp := s.m.span(d)
				if d.cur >= d.total() || d.cur < sp.from || d.cur >= sp.from+sp.cells*sp.per {
					t.Fatalf("after %s: cursor at %d of %d, shown %+v", k, d.cur, d.total(), sp)
				}
				s.plain()
			}
		}
	}
}

// TestMouse: a click chooses a device, moving moves the cursor, the wheel zooms around it.
func TestMouse(t *testing.T) {
	s := newScreen(t, 80, 24, true)
	s.send(tea.MouseClickMsg{X: 3, Y: 3, Button: tea.MouseLeft})
	if s.m.picked != "/dev/ublkb1" {
		t.Errorf("chosen is %q", s.m.picked)
	}
	s.pass(1)
	d, l := s.m.chosen(), s.m.layout()
	s.send(tea.MouseMotionMsg{X: 5, Y: l.mapTop + 2})
	per := s.m.span(d).per
	if want := (4*80 + 5) * per; d.cur != want {
		t.Errorf("cursor at %d, want %d", d.cur, want)
	}
	s.send(tea.MouseWheelMsg{X: 5, Y: l.mapTop + 2, Button: tea.MouseWheelUp})
	if sp := s.m.span(d); sp.per != per/2 || d.cur/sp.per != sp.from/sp.per+4*80+5 {
		t.Errorf("%+v, cursor at %d", sp, d.cur)
	}
	for _, at := range [][2]int{{-1, -1}, {1000, 1000}, {0, 0}, {79, 23}} {
		s.send(tea.MouseMotionMsg{X: at[0], Y: at[1]})
		s.send(tea.MouseWheelMsg{X: at[0], Y: at[1], Button: tea.MouseWheelDown})
	}
	s.plain()
}

// TestLargeDisk: the map of a disk of 16 TiB is asked for in pieces, each of which a server gives.
func TestLargeDisk(t *testing.T) {
	asked := &pieces{}
	got, err := whole(t.Context(), asked, "x", span{from: 0, per: 1 << 22, cells: 10000}, 1<<35)
	if err != nil || len(asked.cells) != 2 || len(got.Cells) != 2 || got.Cells[1].Cell != 4096 {
		t.Errorf("%+v, %v, %v", asked, got, err)
	}
	// A part behind the device's end has regions only.
	asked = &pieces{}
	if got, err = whole(t.Context(), asked, "x", span{from: 1 << 35, per: 1, cells: 100},
		1<<35); err != nil || len(got.Cells) != 0 || len(asked.cells) != 1 {
		t.Errorf("%+v, %v, %v", asked, got, err)
	}
}

// pieces answers as a server does, and notes how much was asked for at once.
type pieces struct {
	fake
	cells []int
}

func (p *pieces) Surface(_ context.Context, _ string, from, to uint64,
	cells int) (*control.Surface, error) {
	p.cells = append(p.cells, cells)
	if cells > control.MaxSurface || from >= 1<<35 {
		return nil, control.ErrInvalid
	}
	return &control.Surface{BlockSize: 512, SizeBlocks: 1 << 35, From: from, To: to,
		PerCell: (to-from-1)/uint64(cells) + 1, Cells: []control.SurfaceCell{{Mapped: 1}}}, nil
}
