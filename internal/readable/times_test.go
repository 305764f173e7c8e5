package readable

import (
	"testing"
	"time"
)

func TestTimes(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) string { return Ago(now.Add(-d), now) }
	const day = 24 * time.Hour
	for _, c := range [][2]string{
		{Duration(-1), "0s"},
		{Duration(59 * time.Second), "59s"},
		{Duration(90 * time.Second), "1m30s"},
		{Duration(185 * time.Minute), "3h5m"},
		{Duration(50 * time.Hour), "2d2h"},
		{Latency(7204123 * time.Microsecond), "7.204s"},
		{Latency(11250400 * time.Nanosecond), "11.25ms"},
		{Latency(850 * time.Microsecond), "850µs"},
		{Seconds(0), "0 µs"},
		{Seconds(4.096e-6), "4.1 µs"},
		{Seconds(32.768e-6), "33 µs"},
		{Seconds(0.001), "1 ms"},
		{Seconds(0.268), "268 ms"},
		{Seconds(1.048576), "1 s"},
		{Seconds(68.7), "69 s"},
		{Span(-time.Second), "0 seconds"},
		{Span(time.Second), "1 second"},
		{Span(119 * time.Second), "119 seconds"},
		{Span(2 * time.Minute), "2 minutes"},
		{Span(119 * time.Minute), "119 minutes"},
		{Span(2*time.Hour + 31*time.Minute), "3 hours"},
		{Span(3*day + 23*time.Hour), "3 days"},
		{ago(-time.Second), "just now"},
		{ago(59 * time.Second), "just now"},
		{ago(119 * time.Second), "1 minute ago"},
		{ago(59 * time.Minute), "59 minutes ago"},
		{ago(47 * time.Hour), "47 hours ago"},
		{ago(3 * day), "3 days ago"},
		{Days(0), "1 hour"},
		{Days(1.9), "46 hours"},
		{Days(12), "12 days"},
		{Days(1100), "3 years"},
		{Days(1e9), "over 100 years"},
	} {
		if c[0] != c[1] {
			t.Errorf("%q, want %q", c[0], c[1])
		}
	}
}
