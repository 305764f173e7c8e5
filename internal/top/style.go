package top

import (
	"fmt"
	"math"
	"strings"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"ublkremap/internal/control"
)

// look is how a kind of cell looks.
type look struct {
	letter string
	color  string // of 256; those of Okabe and Ito, as near as there are
	name   string
}

// looks are in the order of the kinds.
var looks = [...]look{
	kindLost:      {"X", "166", "lost"},
	kindPending:   {"P", "227", "pending"},
	kindSlow:      {"S", "175", "slow"},
	kindMapped:    {"R", "214", "remapped"},
	kindMetadata:  {"M", "74", "meta"},
	kindSpare:     {"+", "36", "spare"},
	kindDisplaced: {"D", "250", "moved"},
	kindScrubbed:  {"-", "25", "scrubbed"},
	kindPlain:     {".", "238", "unread"},
	kindNone:      {" ", "", ""},
}

var (
	bold    = lipgloss.NewStyle().Bold(true)
	faint   = lipgloss.NewStyle().Faint(true)
	reverse = lipgloss.NewStyle().Reverse(true)
)

// stateStyle is how a state looks in the list.
func stateStyle(s control.State) lipgloss.Style {
	color := "214"
	switch s {
	case control.StateLive:
		color = "36"
	case control.StateTripped, control.StateFailed, control.StateUnreachable:
		color = "166"
	}
	return lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color(color))
}

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
	bars := []rune("▁▂▃▄▅▆▇█")
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
