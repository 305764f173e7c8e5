package server

import (
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/coordinator"
	"ublkremap/metadata"
	"ublkremap/remap"
)

// report is what the keeper logs. All of it belongs to the keeper's goroutine.
type report struct {
	floods zerolog.Logger // for what can come in floods
	alerts zerolog.Logger
	name   string // of the device
	shared *remap.Shared
	coord  *coordinator.Coordinator

	logged   remap.Counts // as they were last logged
	loggedAt time.Time
	due      int64 // when to log a change of the table that came too soon; 0: there is none
	// Scratch, and what was last logged.
	mirrors, mirrorsLogged []metadata.MirrorStatus
	growthLogged           metadata.Growth
	capacityLogged         uint64
}

func newReport(log zerolog.Logger, name string, shared *remap.Shared) report {
	return report{floods: log.Sample(&zerolog.BurstSampler{Burst: 10, Period: time.Minute}),
		alerts: log, name: name, shared: shared}
}

// begin records the state at the start, except that every mirror counts as good. So mirrors that
// are not good are logged.
func (r *report) begin(c *coordinator.Coordinator) {
	r.coord = c
	r.logged = r.shared.Map().Counts()
	_, r.capacityLogged = c.TableGrowth()
	r.mirrors = c.AppendMirrors(nil)
	r.mirrorsLogged = make([]metadata.MirrorStatus, len(r.mirrors))
	for i := range r.mirrors {
		r.mirrorsLogged[i] = r.mirrors[i]
		r.mirrorsLogged[i].State = metadata.MirrorGood
	}
}

// changes logs what has changed since the last call.
func (r *report) changes(devices []*blockdev.Device) {
	r.table()
	r.growth()
	r.mirrorStates(devices)
}

// growth logs that the table gets more room, or cannot get it.
func (r *report) growth() {
	growth, capacity := r.coord.TableGrowth()
	if capacity > r.capacityLogged {
		r.coord.Note(metadata.Event{Kind: metadata.EventTable, Count: uint32(capacity),
			Done: metadata.EventFinished})
		r.alerts.Info().Uint64("entries", capacity).Msg("the remap table has more room")
	}
	if news := growthNews[growth]; growth != r.growthLogged && news != "" {
		event := r.alerts.Warn()
		if growth == metadata.GrowthUnderWay {
			event = r.alerts.Info()
		}
		event.Uint64("entries", capacity).Msg(news)
		if growth == metadata.GrowthNoRoom {
			r.coord.Note(metadata.Event{Kind: metadata.EventTable, Count: uint32(capacity),
				Done: metadata.EventNoRoom})
		}
	}
	r.growthLogged, r.capacityLogged = growth, capacity
}

// growthNews is what the steps to a larger table mean.
var growthNews = map[metadata.Growth]string{
	metadata.GrowthUnderWay: "the remap table fills: the mirrors of the metadata are rebuilt one " +
		"after the other, with more room",
	metadata.GrowthWaits: "the remap table fills, and gets more room when all mirrors and " +
		"superblocks are in order",
	metadata.GrowthNoRoom: "the remap table fills, and the disk has no room for a larger one: " +
		"copy the data to another disk while this one reads",
}

// logTableEvery is the shortest time between two log lines about changes of the table.
const logTableEvery = 2 * time.Second

// table logs that the table has changed, as sums, because a dying disk must not fill the log. It
// needs the keeper's timer only when something remains to be logged.
func (r *report) table() {
	counts := r.shared.Map().Counts()
	if counts == r.logged {
		r.due = 0
		return
	}
	if since := time.Since(r.loggedAt); since < logTableEvery {
		if r.due == 0 {
			r.due = monotonic() + int64(logTableEvery-since)
		}
		return
	}
	r.logged, r.loggedAt, r.due = counts, time.Now(), 0
	r.alerts.Info().Uint64("remaps", counts.Mapped).Uint64("pending", counts.Pending).Uint64("lost",
		counts.Lost).Msg("the remap table has changed")
}

// mirrorStates logs that a mirror of the metadata is no longer good, or is good again, one line for
// each change. A mirror that is being rebuilt is not logged, nor one that gets more room.
func (r *report) mirrorStates(devices []*blockdev.Device) {
	r.mirrors = r.coord.AppendMirrors(r.mirrors[:0])
	for i := range r.mirrors {
		now, before := &r.mirrors[i], &r.mirrorsLogged[i]
		if now.State == metadata.MirrorRebuilding || now.State == metadata.MirrorStale &&
			r.growthLogged == metadata.GrowthUnderWay || now.State == before.State &&
			now.Start == before.Start && now.Device == before.Device {
			continue
		}
		event := r.alerts.Info()
		if now.State != metadata.MirrorGood {
			event = r.alerts.Warn().AnErr("reason", r.coord.Status().Committer.Err)
		}
		r.coord.Note(metadata.Event{Kind: metadata.EventMirror, Device: now.Device,
			Detail: uint64(now.Start), Done: mirrorDone[now.State]})
		event.Str("device", devices[now.Device].Path()).Int64("offset", now.Start).Str("state",
			string(now.State)).Msg("a mirror of the metadata is " + mirrorNews[now.State])
		*before = *now
	}
}

// mirrorDone are the states as the flight recorder has them.
var mirrorDone = map[metadata.MirrorState]metadata.EventDone{
	metadata.MirrorGood: metadata.EventGood, metadata.MirrorWeak: metadata.EventWeak,
	metadata.MirrorStale: metadata.EventStale,
}

// mirrorNews is what the states of a mirror mean.
var mirrorNews = map[metadata.MirrorState]string{
	metadata.MirrorGood: "whole",
	metadata.MirrorWeak: "incomplete, and is being completed",
	metadata.MirrorStale: "behind, because it could not be written; it will be rebuilt, here or " +
		"elsewhere",
}

// flushFailed logs that one of the keeper's flushes failed.
func (r *report) flushFailed(path string, errno int32) {
	r.floods.Error().Str("device", path).Err(unix.Errno(errno)).
		Msg("a flush failed: what was written since the last one that went well may be lost; the " +
			"next flush of a user is answered with an error")
}

// notDurable logs that a change was refused, with an error, or that its outcome is unknown, with
// nil.
func (r *report) notDurable(err error) {
	if err != nil {
		r.floods.Error().Err(err).Msg("a change of the remap table is refused")
		return
	}
	r.floods.Error().Msg("a change of the remap table is not known to be durable")
}

// alert logs what an operator should know.
func (r *report) alert(a remap.Alert) {
	event := r.alerts.Warn()
	if a == remap.AlertTripped || a == remap.AlertSpareFull {
		event = r.alerts.Error()
	}
	if a == remap.AlertTripped {
		st := r.coord.Status().Arbiter
		event = event.Str("reason", st.Reason).Str("do", tripAction(st.Kind, r.name))
	}
	event.Msg(a.String())
}
