package page

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"ublkremap/internal/readable"
)

// maxText is how many characters of a name, a path or a reason are shown.
const maxText = 400

// clean makes a text of unknown origin safe to read, and cuts it if it is too long.
func clean(s string) string { return readable.Fit(readable.Text(s), maxText) }

func sizeText(n uint64) string { return readable.Bytes(int64(min(n, math.MaxInt64))) }

func numText(n uint64) string { return readable.Number(n) }

// counted is a number with what is counted.
func counted(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return numText(n) + " " + many
}

// ago is a time in the past for people, no finer than anybody needs.
func ago(t, now time.Time) string {
	d := now.Sub(t)
	switch {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return counted(uint64(d/time.Minute), "minute", "minutes") + " ago"
	case d < 48*time.Hour:
		return counted(uint64(d/time.Hour), "hour", "hours") + " ago"
	}
	return counted(uint64(d/(24*time.Hour)), "day", "days") + " ago"
}

// daysText is a number of days for people.
func daysText(n float64) string {
	switch {
	case n < 2:
		return counted(uint64(math.Round(max(n*24, 1))), "hour", "hours")
	case n < 1000:
		return fmt.Sprintf("%.0f days", n)
	case n < 100*365:
		return fmt.Sprintf("%.0f years", n/365)
	}
	return "over 100 years"
}

// secondsText is a time with two digits that mean something.
func secondsText(s float64) string {
	for _, u := range []struct {
		of   float64
		name string
	}{{1, "s"}, {1e-3, "ms"}, {1e-6, "µs"}} {
		if v := s / u.of; v >= 1 || u.name == "µs" {
			digits := 0
			if v < 10 {
				digits = 1
			}
			return strings.TrimSuffix(strconv.FormatFloat(v, 'f', digits, 64), ".0") + " " + u.name
		}
	}
	return ""
}

// spanText is a length of time for people.
func spanText(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return counted(uint64(d.Round(time.Second)/time.Second), "second", "seconds")
	case d < 2*time.Hour:
		return counted(uint64(d.Round(time.Minute)/time.Minute), "minute", "minutes")
	case d < 48*time.Hour:
		return counted(uint64(d.Round(time.Hour)/time.Hour), "hour", "hours")
	}
	return counted(uint64(d/(24*time.Hour)), "day", "days")
}

func stamp(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// command splits what is to be done into words and the command to type, if there is one: those that
// name a command have it at their end.
func command(action string) (words, typed string) {
	const name = "ublk-remap "
	switch i := strings.Index(action, ": "+name); {
	case strings.HasPrefix(action, name):
		return "", action
	case i >= 0:
		return action[:i], action[i+2:]
	}
	return action, ""
}
