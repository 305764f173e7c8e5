package main

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// eventRow is a line of events --json.
type eventRow struct {
	Time        string  `json:"time"`
	What        string  `json:"what"`
	Block       *uint64 `json:"block"`
	Count       uint32  `json:"count"`
	Errno       *int    `json:"errno"`
	Latency     *uint32 `json:"latency_us"`
	Done        string  `json:"done"`
	Temperature *int    `json:"temperature"`
}

// eventRows are the lines of events --json.
func eventRows(t *testing.T, text string) (rows []eventRow) {
	t.Helper()
	for line := range strings.Lines(text) {
		d := json.NewDecoder(strings.NewReader(line))
		d.DisallowUnknownFields()
		var row eventRow
		must(t, d.Decode(&row))
		rows = append(rows, row)
	}
	return rows
}

// whats are the kinds of events, in order.
func whats(rows []eventRow) (list []string) {
	for _, row := range rows {
		list = append(list, row.What)
	}
	return list
}

func eventsOf(t *testing.T, args ...string) []eventRow {
	t.Helper()
	return eventRows(t, rig.Want(t, 0, append([]string{"events", "--json"}, args...)...).Stdout)
}

// TestEvents: what happens to a device is told live, as it happens, and from the disk after the
// server was killed and after the set was stopped; also by the spare device alone.
func TestEvents(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	loop := vmtest.NewLoop(t, 64<<20, vmtest.LoopOptions{})
	spare := vmtest.NewLoop(t, 16<<20, vmtest.LoopOptions{})
	dm := vmtest.NewDM(t, vmtest.LinearTable(t, loop))
	rig.Want(t, 0, "create", dm.Path, "--name", "events", "--spare-device", spare)
	dev := rig.StartDevice(t, dm.Path)
	dm.Swap(t, vmtest.ErrorTable(t, loop, vmtest.Extent{Start: 60000, Count: 1},
		vmtest.Extent{Start: 70001, Count: 2}))

	follow := rig.LaunchCmd(t, exec.Command(vmtest.Binary(t), "events", "events", "--follow",
		"--json"))
	followed := func(what string) {
		t.Helper()
		rig.Until(t, what+" to be told", func() bool {
			return slices.Contains(whats(eventRows(t, follow.Result().Stdout)), what)
		})
	}
	followed("start")
	f := rig.Open(t, dev)
	must(t, f.Write(rig.Aligned(4096), 60000/8*4096))
	if err := f.Read(rig.Aligned(4096), 70000*512); err == nil {
		t.Error("a bad sector reads")
	}
	f.Close()
	followed("remap")
	followed("pending")
	rows := eventsOf(t, dev)
	if len(rows) != 3 || rows[0].What != "start" {
		t.Fatalf("%+v", rows)
	}
	for _, row := range rows[1:] {
		block, count := uint64(60000), uint32(1)
		if row.What == "pending" {
			block, count = 70001, 2
		}
		if row.Block == nil || *row.Block != block || row.Count != count || row.Errno == nil ||
			*row.Errno != 5 || row.Latency == nil || row.Done == "" {
			t.Errorf("%+v", row)
		}
	}
	if text := rig.Want(t, 0, "events", dev).Stdout; !strings.Contains(text, "EIO") ||
		!strings.Contains(text, "remapped to the spare region") {
		t.Errorf("for people:\n%s", text)
	}

	rig.Until(t, "the events to be on the disk", func() bool {
		return len(eventsOf(t, spare)) == 3
	})
	rig.Kill(t, dev)
	awaitEventsDead(t)
	if got := whats(eventsOf(t, dev)); !slices.Equal(got, whats(rows)) {
		t.Errorf("after the server died: %q", got)
	}
	rig.Want(t, exit.Failed, "events", dev, "--follow")
	rig.Want(t, 0, "start", "events")
	followed("recovery")
	rig.Want(t, 0, "stop", "events")
	want := append(whats(rows), "recovery", "stop")
	for _, args := range [][]string{{"events"}, {dm.Path}, {spare}} {
		if got := whats(eventsOf(t, args...)); !slices.Equal(got, want) {
			t.Errorf("events %s: %q, want %q", args, got, want)
		}
	}
	var dump struct{ Events []eventRow }
	parseJSON(t, rig.Want(t, 0, "metadata", "dump", dm.Path).Stdout, &dump)
	if got := whats(dump.Events); !slices.Equal(got, want) {
		t.Errorf("metadata dump: %q", got)
	}
	follow.Kill(t)

	// The backing dies.
	dm.Swap(t, vmtest.ErrorTable(t, loop, vmtest.Extent{Start: 0, Count: 64 << 20 / 512}))
	if got := whats(eventsOf(t, spare)); !slices.Equal(got, want) {
		t.Errorf("by the spare device alone: %q", got)
	}
	dm.Swap(t, vmtest.LinearTable(t, loop))
	rig.Want(t, 0, "metadata", "check", dm.Path)
	rig.Want(t, exit.NotFound, "events", "nothing")
	rig.Want(t, exit.Usage, "events")
}

// awaitEventsDead waits until the server of "events" is dead.
func awaitEventsDead(t *testing.T) {
	t.Helper()
	rig.Until(t, "the server's death", func() bool {
		return rig.StatusOf(t, "events").State == "failed"
	})
}
