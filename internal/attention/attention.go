package attention

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"ublkremap/internal/control"
	"ublkremap/internal/readable"
	"ublkremap/internal/shell"
)

// Limits of the spare region: less is free than one in so many units.
const (
	spareLittle = 20 // 5 %, as the alert has it
	spareLess   = 4  // 25 %
)

// Of judges a device. more is what its caller knows besides; what the status says too is left out
// of it.
func Of(st *control.Status, more ...Point) Points {
	var all Points
	add := func(p *Point) {
		if p != nil {
			all = append(all, *p)
		}
	}
	add(missing(st))
	add(state(st))
	if st.Answered() {
		add(blocks(st))
	}
	if st.HasFigures() {
		add(spare(st))
		add(metadata(st))
		add(table(st))
		add(slow(st))
	}
	for _, p := range more {
		if !slices.ContainsFunc(p.Alerts, all.tells) {
			all = append(all, p)
		}
	}
	for i := range st.Alerts {
		if a := &st.Alerts[i]; !all.tells(a.Kind) {
			all = append(all, alerted(st, a))
		}
	}
	slices.SortStableFunc(all, func(a, b Point) int { return cmp.Compare(a.Rank, b.Rank) })
	return all
}

// missing tells of disks that are gone. Until they are back, nothing else helps.
func missing(st *control.Status) *Point {
	if len(st.Missing) == 0 {
		return nil
	}
	p := &Point{Level: Bad, Rank: RankMissing, Alerts: []string{"disk-missing"},
		Says: "a disk of it is gone: " + st.Missing[0],
		Do:   "bring the disk back: its cables, its power, its controller"}
	if len(st.Missing) > 1 {
		p.Says = "disks of it are gone: " + strings.Join(st.Missing, " and ")
		p.Do = "bring the disks back: their cables, their power, their controllers"
	}
	switch st.State {
	case control.StateTripped:
		p.Do += "; then: " + shell.Command("resume", st.Name)
	case control.StateFailed:
		p.Do += "; then: " + shell.Command("start", st.Name)
	}
	return p
}

// state tells of the state, and why it is that.
func state(st *control.Status) *Point {
	p := &Point{Level: Bad, Says: cmp.Or(st.Reason, "it is "+string(st.State)), Do: st.Action}
	switch st.State {
	case control.StateFailed:
		// While no server runs I/O waits, so no error reaches anybody, whatever an alert of before
		// says.
		p.Rank, p.Alerts = RankFailed, []string{"server-dead", "tripped"}
	case control.StateUnreachable:
		p.Rank, p.Alerts = RankUnreachable, []string{"no-answer"}
		p.Do = cmp.Or(p.Do, "see: "+shell.Command("status", st.Name))
	case control.StateTripped:
		// That the disk is to be replaced says the same, as the alerts have it.
		p.Rank, p.Alerts = RankTripped, []string{"tripped", "disk-to-replace"}
		p.Says = "remapping is stopped"
		if st.Reason != "" {
			p.Says += ": " + st.Reason
		}
	case control.StateDegraded:
		p.Level, p.Rank = Watch, RankDegraded
		if st.HasFigures() && st.Spare.Free == 0 {
			p.Level, p.Rank = Bad, RankFull
			p.Alerts = append(p.Alerts, "spare-nearly-used-up", "spare-goes-down")
		}
		if mirrorsBehind(st) > 0 || strings.Contains(st.Reason, "superblock") {
			p.Alerts = append(p.Alerts, "metadata-degraded")
		}
		if strings.Contains(st.Reason, "remap table") {
			p.Alerts = append(p.Alerts, "table-nearly-full")
		}
	case control.StateRecovering:
		p.Level, p.Rank = Watch, RankRecovering
	case control.StateStopping:
		p.Level, p.Rank = Watch, RankStopping
	default:
		if st.WaitingSince == nil && st.State == control.StateLive {
			return nil
		}
		p.Level, p.Rank = Watch, RankDegraded
	}
	if st.WaitingSince != nil { // the reason says it too
		p.Level, p.Rank = Bad, min(p.Rank, RankWaiting)
		p.Alerts = append(p.Alerts, "disk-waits")
	}
	if len(st.Missing) > 0 && (st.State == control.StateTripped ||
		st.State == control.StateFailed) {
		p.Do = "" // what to do about the missing disk has it
	}
	return p
}

// blocks tells of data that cannot be read.
func blocks(st *control.Status) *Point {
	lost := readable.Count(st.Lost, "block has lost its data", "blocks have lost their data")
	p := &Point{Level: Watch, Rank: RankPending,
		Do: "restore the files from a backup; these are: " + shell.Command("files", st.Name)}
	switch {
	case st.Lost == 0 && st.Pending == 0:
		return nil
	case st.Lost == 0:
		p.Says = readable.Count(st.Pending, "block does", "blocks do") + " not read"
	case st.Pending == 0:
		p.Says = lost
	default:
		p.Says = lost + ", and " + readable.Count(st.Pending, "does", "do") + " not read"
	}
	if st.Lost > 0 {
		p.Level, p.Rank, p.Alerts = Bad, RankLost, []string{"blocks-lost"}
	}
	if st.Pending > 0 {
		p.Alerts = append(p.Alerts, "blocks-pending")
	}
	return p
}

// spare tells of a spare region that is nearly used up. That it is used up is a state.
func spare(st *control.Status) *Point {
	s := st.Spare
	says := readable.Count(s.Free, "spare unit is", "spare units are") + " free"
	switch {
	case s.Total == 0, s.Free == 0 && st.State == control.StateDegraded:
	case s.Free <= s.Total/spareLittle:
		return &Point{Level: Bad, Rank: RankFull, Says: says + ", 5 % or less",
			Do:     Replace(st),
			Alerts: []string{"spare-nearly-used-up", "spare-goes-down"}}
	case s.Free <= s.Total/spareLess:
		return &Point{Level: Watch, Rank: RankSpare, Says: says, Do: LookAt(st)}
	}
	return nil
}

// LookAt is what to do about a disk that is not as it should be.
func LookAt(st *control.Status) string {
	return "look at the disk: " + shell.Command("health", st.Name)
}

// Replace is what to do about a disk that is to be replaced while it still reads.
func Replace(st *control.Status) string {
	return replaceStep + ": " + shell.Command("health", st.Name)
}

const replaceStep = "copy the data to another disk while this one reads; why"

func mirrorsBehind(st *control.Status) (n uint64) {
	for _, m := range st.Metadata.Mirrors {
		if m.State != "good" {
			n++
		}
	}
	return n
}

// metadata tells of copies of the metadata that are not in order, if the state does not.
func metadata(st *control.Status) *Point {
	var says []string
	if n := uint64(max(st.Metadata.BadSuperblocks, 0)); n > 0 &&
		!strings.Contains(st.Reason, "superblock") {
		says = append(says, readable.Count(n, "superblock", "superblocks")+" cannot be written")
	}
	if n := mirrorsBehind(st); n > 0 && st.State != control.StateDegraded {
		says = append(says, readable.Count(n, "copy of the metadata is", "copies of the metadata "+
			"are")+" not in order")
	}
	if len(says) == 0 {
		return nil
	}
	return &Point{Level: Watch, Rank: RankDegraded, Says: strings.Join(says, "; "),
		Do: "the disk fails where its records lie; keep a copy of them elsewhere: " +
			shell.Command("metadata", "backup", st.Name, "FILE"),
		Alerts: []string{"metadata-degraded"}}
}

// table tells of a remap table that is nearly full, if the state does not.
func table(st *control.Status) *Point {
	t := st.Table
	if t == nil || t.Max == 0 || t.Entries <= t.Max-t.Max/10 ||
		strings.Contains(st.Reason, "remap table") {
		return nil
	}
	return &Point{Level: Watch, Rank: RankDegraded, Says: fmt.Sprintf(
		"the remap table is nearly full, %s of %s entries", readable.Number(t.Entries),
		readable.Number(t.Max)), Do: "copy the data to another disk while this one reads",
		Alerts: []string{"table-nearly-full"}}
}

// slow tells of requests that take long at this moment, or did a moment ago.
func slow(st *control.Status) *Point {
	switch r := &st.Requests; {
	case st.WaitingSince != nil, r.SlowSince == nil && r.SlowLast == nil:
		return nil
	case r.SlowSince == nil:
		return &Point{Level: Watch, Rank: RankSlow, Do: LookAt(st),
			Says: "requests waited for the disk for seconds, less than a minute ago"}
	}
	return &Point{Level: Watch, Rank: RankSlow, Do: LookAt(st), Says: readable.Count(
		uint64(max(st.Requests.Slow, 0)), "request waits", "requests wait") + " for the disk"}
}

// steps are what to do about alerts that the status does not explain: words, and the verb of the
// command.
var steps = map[string][2]string{
	"disk-to-replace": {replaceStep, "health"},
	"flush-failed":    {"see what the disk says of itself", "health"},
	"new-bad-blocks":  {"look at the disk", "health"},
	"server-replaced": {"see why", "events"},
	"slow":            {"see what the disk says of itself", "health"},
	"spare-goes-down": {"see how long it lasts, and have a disk to replace it", "health"},
	"transport-errors": {"check its cable, its power and its controller; what the disk counts",
		"health"},
}

// alerted is what an alert tells that the status does not explain.
func alerted(st *control.Status, a *control.Alert) Point {
	step, ok := steps[a.Kind]
	if !ok { // it is over, and the alert waits for a while before it says so; or it is a new one
		step = [2]string{"see", "status"}
	}
	p := Point{Level: Watch, Rank: RankWarning, Says: sentencePart(st, a.Text),
		Do: step[0] + ": " + shell.Command(step[1], st.Name), Alerts: []string{a.Kind}}
	switch {
	case a.Severity == "critical":
		p.Level, p.Rank = Bad, RankCritical
	case a.Kind == "transport-errors":
		p.Rank = RankWay
	}
	return p
}

// sentencePart makes a part of a text of an alert's sentence.
func sentencePart(st *control.Status, text string) string {
	text = strings.TrimSuffix(text, ".")
	if strings.HasPrefix(text, readable.Text(st.Name)) {
		return text
	}
	r, n := utf8.DecodeRuneInString(text)
	return string(unicode.ToLower(r)) + text[n:]
}
