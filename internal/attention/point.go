package attention

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"ublkremap/internal/control"
)

// Level says how bad something is.
type Level int

const (
	Good Level = iota
	Watch
	Bad
)

// LevelOf is how bad a state is by itself. What else is with a device may be worse.
func LevelOf(s control.State) Level {
	switch s {
	case control.StateLive:
		return Good
	case control.StateTripped, control.StateFailed, control.StateUnreachable:
		return Bad
	}
	return Watch
}

// Rank orders what is with devices, the most urgent first.
type Rank int

const (
	RankMissing Rank = iota
	RankFailed
	RankUnreachable
	RankTripped
	RankLost
	RankWaiting
	RankFull
	RankCritical // an alert
	RankRecovering
	RankDegraded
	RankPending
	RankStopping
	RankSpare
	RankWay     // an alert about the way to the disk: it may explain others
	RankWarning // another alert
	RankSlow
	RankWell
)

// Point is one thing that is with a device. Its texts are not safe to show.
type Point struct {
	Level Level
	Rank  Rank
	Says  string // what is so; it begins small, unless a name or a path begins it
	// Do is what to do, in words or as a command to type, or the words, a colon and the command.
	// Empty: nothing.
	Do string
	// Alerts are the names of the alerts that tell the same.
	Alerts []string
}

// Points are all that is with a device, the most urgent first. Without any all is well.
type Points []Point

// Well is what is said of a device that nothing is with.
const Well = "all is well"

// Level is that of the worst point.
func (all Points) Level() Level {
	worst := Good
	for i := range all {
		worst = max(worst, all[i].Level)
	}
	return worst
}

// Rank is that of the most urgent point.
func (all Points) Rank() Rank {
	if len(all) == 0 {
		return RankWell
	}
	return all[0].Rank
}

// Says puts all points into one text, for a line.
func (all Points) Says() string {
	if len(all) == 0 {
		return Well
	}
	says := make([]string, len(all))
	for i := range all {
		says[i] = all[i].Says
	}
	return strings.Join(says, "; ")
}

// Sentences are all points, each as a sentence of its own, to be shown as a list. name is that of
// the device, in which no letter is changed.
func (all Points) Sentences(name string) []string {
	says := make([]string, len(all))
	for i := range all {
		s := all[i].Says
		if name == "" || !strings.HasPrefix(s, name) {
			r, n := utf8.DecodeRuneInString(s)
			s = string(unicode.ToUpper(r)) + s[n:]
		}
		if s != "" && !strings.ContainsAny(s[len(s)-1:], ".!?") {
			s += "."
		}
		says[i] = s
	}
	return says
}

// Steps returns what to do, in this order. Nothing is there twice: neither a command, nor the same
// words with a command and without.
func (all Points) Steps() (steps []string) {
	for i := range all {
		do := all[i].Do
		_, command := Command(do)
		at := slices.IndexFunc(steps, func(s string) bool {
			_, typed := Command(s)
			return strings.HasPrefix(s, do) || strings.HasPrefix(do, s) ||
				command != "" && typed == command
		})
		switch {
		case do == "":
		case at < 0:
			steps = append(steps, do)
		case strings.HasPrefix(do, steps[at]):
			steps[at] = do
		}
	}
	return steps
}

// Next puts all steps into one text. Empty: there is nothing to do.
func (all Points) Next() string { return strings.Join(all.Steps(), "; then: ") }

// tells reports whether a point tells the same as an alert.
func (all Points) tells(alert string) bool {
	return slices.ContainsFunc(all, func(p Point) bool { return slices.Contains(p.Alerts, alert) })
}

// Command splits what to do into words and the command to type, if there is one: those that name a
// command have it at their end.
func Command(do string) (words, typed string) {
	const name = "ublk-remap "
	switch i := strings.Index(do, ": "+name); {
	case strings.HasPrefix(do, name):
		return "", do
	case i >= 0:
		return do[:i], do[i+2:]
	}
	return do, ""
}
