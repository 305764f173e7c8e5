package top

import (
	"fmt"
	"image/color"
	"io"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/charmbracelet/colorprofile"

	"ublkremap/internal/control"
)

func TestSparkline(t *testing.T) {
	for _, x := range []struct {
		values []float64
		width  int
		want   string
	}{
		{nil, 4, "    "},
		{[]float64{0, 0}, 4, "  ▁▁"},
		{[]float64{0, 1, 4, 7}, 4, "▁▂▅█"},
		{[]float64{7, 1, 2}, 2, "▅█"},
		{[]float64{1}, 0, ""},
		// 7 times it, divided by it, is more than 7 in floating point.
		{[]float64{2486937.233608333}, 1, "█"},
		{[]float64{math.NaN(), math.Inf(1), 1}, 3, "▁▁▁"},
	} {
		if got := sparkline(x.values, x.width); got != x.want {
			t.Errorf("sparkline(%v, %d) = %q, want %q", x.values, x.width, got, x.want)
		}
	}
}

// TestPageSaysTheSame: the map of the page has the names and letters of this one, and more kinds.
func TestPageSaysTheSame(t *testing.T) {
	js, err := os.ReadFile("../page/assets/surface.js")
	if err != nil {
		t.Fatal(err)
	}
	for k := kindLost; k < kindNone; k++ {
		want := fmt.Sprintf("letter: '%s', name: '%s' }", looks[k].letter, looks[k].name)
		if !strings.Contains(string(js), want) {
			t.Errorf("the page has no kind with %s", want)
		}
	}
}

// TestTerminalOf: what a terminal can show follows the usual variables.
func TestTerminalOf(t *testing.T) {
	for _, x := range []struct {
		env     string
		colours bool // if it were a terminal
		ascii   bool
	}{
		{"TERM=xterm-256color LANG=C.UTF-8", true, false},
		{"TERM=xterm-256color LANG=de_DE.utf8", true, false},
		{"TERM=xterm-256color LANG=de_DE.utf8 LC_ALL=C", true, true},
		{"TERM=xterm-256color LANG=de_DE.ISO-8859-1", true, true},
		{"TERM=xterm-256color LANG=C LC_CTYPE=en_US.UTF-8", true, false},
		{"TERM=xterm-256color LC_ALL= LANG=C.UTF-8", true, false},
		{"TERM=xterm-256color", true, true},
		{"TERM=linux LANG=C.UTF-8", true, true},
		{"TERM=screen LANG=C.UTF-8 NO_COLOR=", true, false},
		{"TERM=xterm LANG=C.UTF-8 NO_COLOR=yes", false, false},
		{"TERM=xterm LANG=C.UTF-8 NO_COLOR=1 CLICOLOR_FORCE=1", false, false},
	} {
		got := terminalOf(io.Discard, append(strings.Fields(x.env), "TTY_FORCE=1"))
		if colours := got.Colours >= colorprofile.ANSI; colours != x.colours ||
			got.ASCII != x.ascii {
			t.Errorf("%s: %+v", x.env, got)
		}
	}
}

// TestShades: kinds are told apart in 16 colours as in 256, and so are good, bad and in between.
func TestShades(t *testing.T) {
	for _, colours := range []colorprofile.Profile{colorprofile.ANSI, colorprofile.ANSI256} {
		seen := map[color.Color]string{}
		can := Terminal{Colours: colours}
		for k := kindLost; k < kindNone; k++ {
			c := can.of(looks[k].color)
			if other, ok := seen[c]; ok {
				t.Errorf("%v: %s and %s look alike", colours, other, looks[k].name)
			}
			seen[c] = looks[k].name
		}
		states := map[color.Color]bool{}
		for _, s := range []control.State{control.StateLive, control.StateDegraded,
			control.StateFailed} {
			states[can.stateStyle(s).GetForeground()] = true
		}
		if len(states) != 3 {
			t.Errorf("%v: states look alike", colours)
		}
	}
}
