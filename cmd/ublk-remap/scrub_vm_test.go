package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// scrubVerb runs a verb of the scrub, which must succeed.
func scrubVerb(t *testing.T, args ...string) (st control.ScrubStatus) {
	t.Helper()
	args = append(append([]string{"scrub"}, args...), "--json")
	if err := json.Unmarshal([]byte(rig.Want(t, 0, args...).Stdout), &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// awaitScrub waits until the scrub of "life" is as asked.
func awaitScrub(t *testing.T, what string, is func(*control.ScrubStatus) bool) (
	st control.ScrubStatus) {
	t.Helper()
	rig.Until(t, what, func() bool {
		st = scrubVerb(t, "status", "life")
		return is(&st)
	})
	return st
}

// TestScrubLife: a scrub finds what does not read, goes on over the server's death, an upgrade and
// a stop, and nobody but it sees an error.
func TestScrubLife(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	useRuntimeDir(t)
	disk := rig.NewDisk(t, rig.KindLoop, 96, 512)
	rig.Want(t, 0, "create", disk.Path, "--name", "life", "--spare", "2MiB")
	dev := rig.StartDevice(t, disk.Path, rig.Unhurried)
	rig.Want(t, exit.Refused, "scrub", "pause", "life")
	rig.Want(t, exit.Usage, "scrub", "start", "life", "--rate", "fast")
	rig.Want(t, exit.Usage, "scrub", "start", "life", "--interval", "3s")
	rig.Want(t, exit.NotFound, "scrub", "status", "death")

	bad := []rig.Extent{rig.At(8<<20, 512), rig.At(40<<20+1024, 1024), rig.At(80<<20, 4096)}
	disk.SetBad(t, bad)
	const blocks = (512 + 1024 + 4096) / 512
	if st := scrubVerb(t, "start", "life", "--rate", "512KiB"); st.State != "running" ||
		st.RateLimit != 1<<19 || st.Started == nil || st.LastFinished != nil {
		t.Errorf("started: %+v", st)
	}
	rig.Want(t, exit.Refused, "scrub", "start", "life")
	moved := func(from uint64) func(st *control.ScrubStatus) bool {
		return func(st *control.ScrubStatus) bool { return st.Position > from }
	}
	awaitScrub(t, "progress", moved(0))
	paused := scrubVerb(t, "pause", "life")
	if out := rig.Want(t, 0, "status", "life").Stdout; paused.State != "paused" ||
		!strings.Contains(out, "paused at block") {
		t.Errorf("paused: %+v", paused)
	}
	// A pause outlives the server too. What was read before the pause is not read again.
	rig.Kill(t, dev)
	rig.Want(t, 0, "start", disk.Path, rig.Unhurried)
	if st := scrubVerb(t, "status", "life"); st.State != "paused" ||
		st.Position < paused.Position || st.RateLimit != 1<<19 {
		t.Errorf("paused at %+v, after a recovery: %+v", paused, st)
	}
	scrubVerb(t, "resume", "life")
	awaitScrub(t, "progress after the recovery", moved(paused.Position))

	before := scrubVerb(t, "status", "life").Position
	rig.Want(t, 0, "upgrade", "life")
	if st := scrubVerb(t, "status", "life"); st.State != "running" || st.Position < before {
		t.Errorf("at block %d, after an upgrade: %+v", before, st)
	}
	before = scrubVerb(t, "status", "life").Position
	rig.Want(t, 0, "stop", "life")
	rig.Want(t, 0, "metadata", "check", disk.Path)
	rig.StartDevice(t, disk.Path, rig.Unhurried)
	if st := scrubVerb(t, "status", "life"); st.State != "running" || st.Position < before {
		t.Errorf("at block %d, after a stop and a start: %+v", before, st)
	}
	// The rest at full speed: a new pass.
	// The first of the free spare units is bad too.
	scrubVerb(t, "stop", "life")
	spare := rig.LayoutOf(t, disk.Path).Spare()
	disk.SetBad(t, append([]rig.Extent{rig.At(spare.Start+4096, 4096)}, bad...))
	scrubVerb(t, "start", "life", "--rate", "1GiB")
	st := awaitScrub(t, "the end of the pass",
		func(st *control.ScrubStatus) bool { return st.State == "idle" })
	if st.LastFinished == nil || st.Position != 0 || st.Found.SpareUnits != 1 {
		t.Errorf("finished: %+v", st)
	}
	var list []control.Remap
	if err := json.Unmarshal([]byte(rig.Want(t, 0, "remap", "list", "life", "--json").Stdout),
		&list); err != nil {
		t.Fatal(err)
	}
	var pending uint64
	for _, r := range list {
		if r.State != "pending" || r.Cause != "scrub" {
			t.Errorf("%+v", r)
		}
		pending += r.Count
	}
	status := rig.StatusOf(t, "life")
	if pending != blocks || status.Errors.Read != 0 || status.IO.Reads > 1000 {
		t.Errorf("%d blocks pending, want %d; %+v", pending, blocks, status)
	}
	if out := rig.Want(t, 0, "scrub", "status", "life").Stdout; !strings.Contains(out, "idle") ||
		!strings.Contains(out, "finished") {
		t.Errorf("scrub status:\n%s", out)
	}
	// What it found heals when it is written.
	d := rig.Open(t, rig.StatusOf(t, "life").Device)
	for _, e := range bad {
		at := e.Start / 4096 * 4096
		if err := errors.Join(d.Write(rig.Aligned(4096), at),
			d.Read(rig.Aligned(4096), at)); err != nil {
			t.Errorf("at %d: %v", at, err)
		}
	}
	if st := rig.StatusOf(t, "life"); st.Pending != 0 || st.Remaps != 3 {
		t.Errorf("after the writes: %+v", st)
	}
}
