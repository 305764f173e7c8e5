package top

import (
	"fmt"
	"image/color"
	"math"
	"strings"
	"unicode/utf8"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/colorprofile"
	"github.com/charmbracelet/x/ansi"

	"ublkremap/internal/attention"
	"ublkremap/internal/control"
)

// look is how a kind of cell looks.
type look struct {
	letter string
	color  shade
	name   string
}

// shade is a colour in a palette of 256, and in one of 16 for terminals that have no more. What is
// told apart by the one is told apart by the other.
type shade struct{ of256, of16 string }

// looks are in the order of the kinds. The colours are those of Okabe and Ito, as near as there
// are.
var looks = [...]look{
	kindLost:      {"X", shade{"166", "1"}, "lost"},
	kindPending:   {"P", shade{"227", "11"}, "pending"},
	kindSlow:      {"S", shade{"175", "5"}, "slow"},
	kindMapped:    {"R", shade{"214", "3"}, "remapped"},
	kindMetadata:  {"M", shade{"74", "6"}, "meta"},
	kindSpare:     {"+", shade{"36", "2"}, "spare"},
	kindDisplaced: {"D", shade{"250", "7"}, "moved"},
	kindScrubbed:  {"-", shade{"25", "4"}, "scrubbed"},
	kindPlain:     {".", shade{"238", "8"}, "unread"},
	kindNone:      {" ", shade{}, ""},
}

var (
	bold    = lipgloss.NewStyle().Bold(true)
	faint   = lipgloss.NewStyle().Faint(true)
	reverse = lipgloss.NewStyle().Reverse(true)
)

// of returns a shade as this terminal has it.
func (t Terminal) of(s shade) color.Color {
	if t.Colours <= colorprofile.ANSI {
		return lipgloss.Color(s.of16)
	}
	return lipgloss.Color(s.of256)
}

// colored is the style of a mark of this kind.
func (t Terminal) colored(k kind) lipgloss.Style {
	if looks[k].name == "" {
		return lipgloss.NewStyle()
	}
	return lipgloss.NewStyle().Foreground(t.of(looks[k].color))
}

// filled is the style of a letter on a cell of this kind.
func (t Terminal) filled(k kind) lipgloss.Style {
	return lipgloss.NewStyle().Background(t.of(looks[k].color)).
		Foreground(t.of(shade{"16", "0"}))
}

// stateStyle is how a state looks in the list.
func (t Terminal) stateStyle(s control.State) lipgloss.Style {
	color := shade{"214", "3"}
	switch attention.LevelOf(s) {
	case attention.Good:
		color = shade{"36", "2"}
	case attention.Bad:
		color = shade{"166", "1"}
	}
	return lipgloss.NewStyle().Bold(true).Foreground(t.of(color))
}

// text is a line as this terminal can show it. A character that it lacks becomes a question mark in
// each of its columns.
func (t Terminal) text(line string) string {
	if !t.ASCII {
		return line
	}
	var b strings.Builder
	for _, r := range line {
		switch i := strings.IndexRune(lines, r); {
		case r < utf8.RuneSelf:
			b.WriteRune(r)
		case i >= 0:
			b.WriteByte(inASCII[utf8.RuneCountInString(lines[:i])])
		default:
			b.WriteString(strings.Repeat("?", ansi.StringWidth(string(r))))
		}
	}
	return b.String()
}

// What this package draws, and what takes its place where there is only ASCII.
const (
	lines   = "…▁▂▃▄▅▆▇█▀"
	inASCII = "~_.-:=+*##"
)

// fit cuts a text to so many columns, or fills it up. A text that was cut ends with an ellipsis.
func fit(s string, width int) string {
	if width <= 0 {
		return ""
	}
	s = ansi.Truncate(s, width, "…")
	return s + strings.Repeat(" ", width-ansi.StringWidth(s))
}

// wrap breaks a text into lines of so many columns, at most so many. The last one is cut.
func wrap(s string, width, lines int) []string {
	all := strings.Split(ansi.Wrap(s, max(width, 1), ""), "\n")
	if len(all) > lines {
		rest := strings.Join(all[lines-1:], " ")
		all = append(all[:lines-1], cut(rest, width))
	}
	return all
}

// cut only cuts.
func cut(s string, width int) string { return ansi.Truncate(s, max(width, 0), "…") }

// sparkline draws values, the newest at the right, in so many columns.
func sparkline(values []float64, width int) string {
	bars := []rune(lines)[1:9]
	if len(values) > width {
		values = values[len(values)-max(width, 0):]
	}
	top := 0.0
	for _, v := range values {
		top = max(top, v)
	}
	var b strings.Builder
	b.WriteString(strings.Repeat(" ", max(width-len(values), 0)))
	for _, v := range values {
		i := 0
		if share := v / top; share > 0 { // not of nothing, nor of a rate that is no number
			// 7 times a share of 1 may be rounded to more than 7.
			i = min(int(math.Ceil(7*share)), len(bars)-1)
		}
		b.WriteRune(bars[i])
	}
	return b.String()
}

// percent is a share in words; nothing of nothing is all.
func percent(n, of uint64) string {
	if of == 0 {
		return "-"
	}
	return fmt.Sprintf("%d%%", uint64(100*float64(n)/float64(of)))
}
