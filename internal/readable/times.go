package readable

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is how long something takes, in whole seconds and two units at most: 45s, 1m30s, 3h5m,
// 2d2h. A time below 0 is shown as 0s.
func Duration(d time.Duration) string {
	d = max(d, 0).Round(time.Second)
	days, h := int(d.Hours())/24, int(d.Hours())%24
	switch {
	case days > 0:
		return fmt.Sprintf("%dd%dh", days, h)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", h, int(d.Minutes())%60)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%ds", int(d.Seconds()))
}

// Latency is how long one request took, with three digits behind the point: 7.204s, 11.25ms.
func Latency(d time.Duration) string {
	switch {
	case d >= time.Second:
		d = d.Round(time.Millisecond)
	case d >= time.Millisecond:
		d = d.Round(time.Microsecond)
	}
	return d.String()
}

// Seconds is a time with the two digits that mean something where it was rounded before, as the
// bounds of histograms are: 1 s, 4.1 ms, 33 µs.
func Seconds(s float64) string {
	unit := " s"
	switch {
	case s < 1e-3:
		s, unit = s*1e6, " µs"
	case s < 1:
		s, unit = s*1e3, " ms"
	}
	digits := 0
	if s < 10 {
		digits = 1
	}
	return strings.TrimSuffix(strconv.FormatFloat(s, 'f', digits, 64), ".0") + unit
}

// Span is a length of time in a sentence, in one unit: 90 seconds, 5 minutes, 31 hours, 3 days.
func Span(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < 2*time.Minute:
		return Count(uint64(d.Round(time.Second)/time.Second), "second", "seconds")
	case d < 2*time.Hour:
		return Count(uint64(d.Round(time.Minute)/time.Minute), "minute", "minutes")
	case d < 48*time.Hour:
		return Count(uint64(d.Round(time.Hour)/time.Hour), "hour", "hours")
	}
	return Count(uint64(d/(24*time.Hour)), "day", "days")
}

// Ago is a time in the past, no finer than anybody needs: just now, 5 minutes ago, 3 days ago.
func Ago(t, now time.Time) string {
	d := now.Sub(t)
	switch {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return Count(uint64(d/time.Minute), "minute", "minutes") + " ago"
	case d < 48*time.Hour:
		return Count(uint64(d/time.Hour), "hour", "hours") + " ago"
	}
	return Count(uint64(d/(24*time.Hour)), "day", "days") + " ago"
}

// Days is an estimate of a number of days: 5 hours, 12 days, 3 years. It is at least an hour.
func Days(n float64) string {
	switch {
	case n < 2:
		return Count(uint64(math.Round(max(n*24, 1))), "hour", "hours")
	case n < 1000:
		return fmt.Sprintf("%.0f days", n)
	case n < 100*365:
		return fmt.Sprintf("%.0f years", n/365)
	}
	return "over 100 years"
}
