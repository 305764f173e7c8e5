package page

import (
	"strings"
	"testing"
	"time"

	"ublkremap/internal/control"
)

// TestHistory: the lines of rates are broken where no server counted, and one request is one.
func TestHistory(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	h := historyOf([]sample{{at: at(0)}, {at: at(5), read: 10, heals: 1}, {at: at(10), read: 30},
		// Another server counts from 0.
		{at: at(15), read: 5}, {at: at(20), read: 15}, {at: at(25), read: 25}}, at(25))
	if n := strings.Count(h.Read, "M"); n != 2 {
		t.Errorf("%d lines: %s", n, h.Read)
	}
	if !strings.HasPrefix(h.Says, "1 request was healed and 0 operations failed in ") {
		t.Error(h.Says)
	}
	if h.ReadNow != "2 B/s" {
		t.Errorf("%s are read now", h.ReadNow)
	}
	if h := historyOf([]sample{{at: at(0)}, {at: at(5), read: 10}}, at(999)); h.ReadNow != "–" {
		t.Errorf("%s are read, long after the last answer", h.ReadNow)
	}
}

// TestRecorded: a disk that has not failed has no bars, and says so in words.
func TestRecorded(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := recordedOf(&device{first: now.Add(-time.Hour)}, now)
	if r.Says != "In the last 30 hours no place of the disk went bad" || len(r.Bars) > 0 {
		t.Errorf("%+v", r)
	}
	d := &device{st: &control.Status{BlockSize: 512}}
	at := now.Add(-time.Hour)
	d.addEvents([]Event{
		{Time: at, What: "pending", Block: 96, Count: 8, Errno: "EIO", Cause: "read"},
		{Time: at, What: "remap", Block: 800, Count: 8, Errno: "EIO", Cause: "write"},
		{Time: at, What: "remap", Block: 100, Count: 4, Cause: "read"}, // healed by a write
	})
	if r = recordedOf(d, now); r.Says !=
		"In the last 30 hours the disk failed in 2 places, and 2 spare units were taken" {
		t.Error(r.Says)
	}
}
