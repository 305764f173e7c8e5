package server

import (
	"strings"
	"testing"
	"time"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
)

// TestHang: the wait for a disk begins at the last reading at which something had come back. It
// ends when something comes back.
func TestHang(t *testing.T) {
	base := time.Unix(1000, 0)
	at := func(s int) time.Time { return base.Add(time.Duration(s) * time.Second) }
	d := &hangDisk{path: "/dev/sdx"}
	w := &hangWatch{disks: []*hangDisk{{path: "/dev/idle"}, d}}
	for s, step := range []struct {
		a     blockdev.Activity
		since int // 0: not waiting
	}{
		1:  {blockdev.Activity{Done: 10}, 0},
		2:  {blockdev.Activity{Done: 12, InFlight: 3}, 0},
		3:  {blockdev.Activity{Done: 15, InFlight: 3}, 0}, // it is busy
		4:  {blockdev.Activity{Done: 15, InFlight: 2}, 3},
		5:  {blockdev.Activity{Done: 15, InFlight: 4}, 3},
		6:  {blockdev.Activity{Done: 16, InFlight: 4}, 0}, // one came back
		7:  {blockdev.Activity{Done: 16, InFlight: 4}, 6},
		8:  {blockdev.Activity{Done: 16}, 0},
		9:  {blockdev.Activity{Done: 16, InFlight: 1}, 0}, // it has just begun
		10: {blockdev.Activity{Done: 16, InFlight: 1}, 9},
	} {
		if s == 0 {
			continue
		}
		d.look(step.a, at(s-1))
		disk, since := w.waiting(at(step.since).Add(hangTold))
		switch {
		case step.since == 0 && disk != nil:
			t.Errorf("after %d s: waiting since %v", s, since)
		case step.since != 0 && (disk != d || !since.Equal(at(step.since))):
			t.Errorf("after %d s: %v since %v, want since %v", s, disk, since, at(step.since))
		}
	}
	st := &control.Status{State: control.StateDegraded, Reason: "no spare unit is free",
		Action: "copy it"}
	w.tell(st, at(9+60))
	if st.WaitingSince == nil || !st.WaitingSince.Equal(at(9)) || !strings.Contains(st.Reason,
		"/dev/sdx for 1m0s") || !strings.HasSuffix(st.Reason, "; no spare unit is free") {
		t.Errorf("%+v", st)
	}
	young := &control.Status{}
	w.tell(young, at(10))
	(*hangWatch)(nil).tell(young, at(10))
	if young.WaitingSince != nil || young.Reason != "" {
		t.Errorf("%+v", young)
	}
}
