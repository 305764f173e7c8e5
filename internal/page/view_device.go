package page

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"ublkremap/internal/control"
	"ublkremap/internal/health"
	"ublkremap/internal/readable"
)

// deviceView is the page of a device.
type deviceView struct {
	frame
	row
	Details   []detail
	Figures   []figure
	Verdict   string
	VTone     tone
	Reasons   []string
	History   history
	Recorded  recorded
	Latency   []latencyRow
	TimedText string
	Events    []eventRow
	NoEvents  string
	Mirrors   []mirror
	Spares    []spareDevice
	Metadata  string
	Table     string
	Surface   *plainSurface
	status    *control.Status
}

// detail is a label and what it is about.
type detail struct{ Label, Text string }

// figure is a number that matters.
type figure struct {
	Label, Value, Sub string
	Tone              tone
}

type mirror struct {
	Location, State string
	Tone            tone
}

type spareDevice struct{ Device, Units string }

// eventRow is an event as it is shown.
type eventRow struct {
	At, Stamp, What, Where, Text, Error, Took, Temperature string
	Tone                                                   tone
}

// deviceOf describes a device, or returns nil if there is none of this key.
func (p *Page) deviceOf(key string) *deviceView {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.devices[key]
	if d == nil {
		return nil
	}
	now := p.now()
	v := &deviceView{row: d.rowOf(key, now), status: d.current(now)}
	v.frame = p.frame(v.row.Name+": "+v.State, now)
	v.Root, v.Live = "../", "?device="+url.QueryEscape(key)
	st := v.status
	v.Details = details(st)
	v.History = historyOf(d.history, now)
	v.Recorded = recordedOf(d, now)
	v.Events = eventRows(d.events)
	switch {
	case !v.Answered && len(v.Events) > 0:
		v.NoEvents = "These are the events up to its last answer."
	case v.Answered && d.noEvents != nil:
		v.NoEvents = "The server does not tell them: " + clean(d.noEvents.Error())
	}
	if !v.Answered {
		return v
	}
	report := d.health(now)
	v.Verdict, v.VTone = verdictOf(report.Verdict)
	for _, r := range report.Reasons {
		v.Reasons = append(v.Reasons, clean(r))
	}
	v.Figures = figures(&v.row, d, st)
	v.Latency, v.TimedText = latencyRows(d.latencies)
	for _, m := range st.Metadata.Mirrors {
		t := toneGood
		if m.State != "good" {
			t = toneWatch
		}
		v.Mirrors = append(v.Mirrors, mirror{place(m.Location), clean(m.State), t})
	}
	for _, s := range st.Spare.Devices {
		v.Spares = append(v.Spares, spareDevice{clean(s.Device), numText(s.Total)})
	}
	v.Metadata = fmt.Sprintf("version %d, record %s, log %s of %s", st.Metadata.Version,
		numText(st.Metadata.Sequence), sizeText(uint64(st.Metadata.LogUsed)),
		sizeText(uint64(st.Metadata.LogSize)))
	if t := st.Table; t != nil {
		v.Table = numText(t.Entries) + " of " + numText(t.Max) + " entries"
		if t.Growth != "" {
			v.Table += "; " + cmp.Or(growths[t.Growth], clean(t.Growth))
		}
	}
	return v
}

// growths say what is done about a table that fills.
var growths = map[string]string{"under way": "more room is being made",
	"waits":   "it gets more room once the metadata is in order",
	"no room": "the disk has no more room for it"}

// place is where a copy of the metadata lies: "backing at 128 KiB" for "backing@131072".
func place(location string) string {
	disk, start, _ := strings.Cut(location, "@")
	at, err := strconv.ParseUint(start, 10, 64)
	if err != nil {
		return clean(location)
	}
	return clean(disk) + " at " + sizeText(at)
}

// verdictOf says what a verdict means.
func verdictOf(v health.Verdict) (string, tone) {
	switch v {
	case health.ReplaceNow:
		return "Replace the disk now, while it reads", toneBad
	case health.Watch:
		return "Watch it: look again often, and have a backup", toneWatch
	case health.Good:
		return "Good: nothing speaks against the disk", toneGood
	}
	return "No bad block so far", toneGood
}

// details are what seldom changes.
func details(st *control.Status) []detail {
	list := []detail{{"Device", clean(st.Device)}, {"Disk", clean(st.Backing)},
		{"UUID", clean(st.UUID)}}
	if st.SizeBlocks > 0 {
		list = append(list, detail{"Size", fmt.Sprintf("%s, %s blocks of %d bytes",
			sizeText(st.SizeBlocks*uint64(st.BlockSize)), numText(st.SizeBlocks), st.BlockSize)})
	}
	if st.Created != nil {
		list = append(list, detail{"Made", stamp(*st.Created)})
	}
	if st.ServerPID != 0 {
		list = append(list, detail{"Server", "process " + strconv.Itoa(st.ServerPID)})
	}
	for _, e := range st.ErrorRecovery {
		text := clean(e.Disk) + ": "
		switch {
		case e.LimitS != nil:
			text += fmt.Sprintf("the drive tries a bad sector for %g s", *e.LimitS)
		default:
			text += clean(e.Note)
		}
		list = append(list, detail{"Error recovery", text})
	}
	return list
}

// figures are the numbers that matter.
func figures(r *row, d *device, st *control.Status) []figure {
	alarm := func(n uint64, t tone) tone {
		if n > 0 {
			return t
		}
		return toneGood
	}
	scrub, before := scrubFigure(&st.Scrub, r)
	list := []figure{
		{"Spare units free", numText(r.Spare.Free), "of " + numText(r.Spare.Total) + ", " +
			numText(r.Spare.Used) + " used", r.Spare.Tone},
		{"They last", r.Spare.Lasts, r.Spare.Between, r.Spare.Tone},
		{"Remapped", numText(st.Remaps), "units", toneGood},
		{"Pending", numText(r.Pending), "blocks that do not read", alarm(r.Pending, toneWatch)},
		{"Lost", numText(r.Lost), "blocks without a copy", alarm(r.Lost, toneBad)},
		{"Slow", numText(r.Slow), "blocks, found by the scrub", alarm(r.Slow, toneWatch)},
		{"Healed", numText(heals(st)), "requests, " + numText(st.Heals.Failed) + " failed",
			alarm(st.Heals.Failed, toneWatch)},
		{"Last scrub", scrub, before, toneGood},
		{"Errors of the disk", numText(st.Errors.Read + st.Errors.Write + st.Errors.Flush),
			numText(st.Errors.Read) + " read, " + numText(st.Errors.Write) + " write, " +
				numText(st.Errors.Flush) + " flush", toneGood},
		{"Errors of the way", numText(st.Errors.Transport), "cable, controller",
			alarm(st.Errors.Transport, toneWatch)},
	}
	if q := st.Requests; q.SlowSince != nil {
		list = append(list, figure{"Waiting", numText(uint64(q.Slow)), "requests, since " +
			stamp(*q.SlowSince), toneWatch})
	}
	if t := temperature(d.events); t != "" {
		list = append(list, figure{"Temperature", t, "at the newest event", toneGood})
	}
	return list
}

// scrubFigure is the scrub as a figure: how far it is, or when it ended.
func scrubFigure(s *control.Scrub, r *row) (value, sub string) {
	if s.State == "idle" || s.Total == 0 {
		return r.Scrub, r.ScrubSub
	}
	return fmt.Sprintf("%.0f %%", 100*float64(s.Position)/float64(s.Total)),
		clean(s.State) + "; before: " + r.ScrubSub
}

// temperature is the newest that the flight recorder knows.
func temperature(events []Event) string {
	for _, e := range slices.Backward(events) {
		if e.Temperature != nil {
			return strconv.Itoa(int(*e.Temperature)) + " °C"
		}
	}
	return ""
}

// eventTones are those of events that are not ordinary.
var eventTones = map[string]tone{"unknown": toneBad, "tripped": toneBad, "flush-failed": toneBad,
	"spare-full": toneBad, "heal-failed": toneWatch, "pending": toneWatch, "retired": toneWatch,
	"spare-low": toneWatch, "hang": toneWatch, "errors": toneWatch, "recovery": toneWatch}

// eventRows shows events, the newest first.
func eventRows(events []Event) []eventRow {
	var rows []eventRow
	for _, e := range slices.Backward(events) {
		r := eventRow{At: e.Time.UTC().Format(time.RFC3339), Stamp: stamp(e.Time),
			What: clean(e.What), Text: clean(e.Text), Error: clean(e.Errno), Tone: toneGood}
		if t, ok := eventTones[e.What]; ok {
			r.Tone = t
		}
		if e.HasBlock {
			r.Where = numText(e.Block)
			if e.Count > 1 {
				r.Where += " – " + numText(e.Block+uint64(e.Count)-1)
			}
		}
		if e.Latency > 0 {
			r.Took = readable.Latency(e.Latency)
		}
		if e.Temperature != nil {
			r.Temperature = strconv.Itoa(int(*e.Temperature)) + " °C"
		}
		rows = append(rows, r)
	}
	return rows
}

// deviceParts adds the parts of the page of a device, and returns its status, nil if it is gone,
// and why that has no figures.
func (p *Page) deviceParts(key string, parts map[string]string) (*control.Status, string) {
	v := p.deviceOf(key)
	if v == nil {
		parts["head"] = p.part("gone", p.goneOf(key))
		return nil, ""
	}
	for _, id := range []string{"head", "figures", "history", "recorded", "latency", "events",
		"metadata", "health", "details"} {
		parts[id] = p.part(id, v)
	}
	return v.status, v.Untold
}

// goneOf is the page of a device that is not there.
func (p *Page) goneOf(key string) *deviceView {
	p.mu.Lock()
	defer p.mu.Unlock()
	name := clean(key)
	v := &deviceView{frame: p.frame(name, p.now()), row: row{Name: name}}
	v.Root, v.Live = "../", "?device="+url.QueryEscape(key)
	return v
}

// plainSurface is the surface as a table.
type plainSurface struct {
	Blocks, HeadBlocks uint64
	BlockSize          int
	Path               string
	Untold             string // why nobody can be asked
	Failed             string // why there was no answer
	Regions            []regionRow
	Places             []placeRow
	More               int
}

type regionRow struct{ What, Device, From, Size, State string }

type placeRow struct{ From, To, Mapped, Pending, Lost string }

// regionNames say what regions hold.
var regionNames = map[string]string{"superblock": "superblock", "mirror": "metadata",
	"head":           "start of the disk, whose data lives elsewhere",
	"displaced-head": "data of the disk's start", "displaced-tail": "data of the disk's end",
	"spare": "spare units"}

// maxPlaces is how many places the table has.
const maxPlaces = 24

// plainSurface asks how the blocks of a device look.
func (p *Page) plainSurface(ctx context.Context, key string, v *deviceView) *plainSurface {
	t := &plainSurface{Blocks: v.status.SizeBlocks, BlockSize: v.status.BlockSize, Path: v.Path}
	if !v.Answered {
		t.Untold = v.Untold
		return t
	}
	ctx, cancel := context.WithTimeout(ctx, roundWait)
	defer cancel()
	s, err := p.askSurface(ctx, key, 0, control.SurfaceEnd, plainCells)
	if err == nil {
		// The range goes to the end of the device, which is known now.
		s, err = p.askSurface(ctx, key, 0, max(s.SizeBlocks, 1), plainCells)
	}
	if err != nil {
		t.Failed = "The server does not tell of its blocks: " + clean(err.Error())
		return t
	}
	for _, r := range s.Regions {
		if r.Kind == control.RegionHead && r.Backing {
			t.HeadBlocks = uint64(r.Length) / uint64(max(s.BlockSize, 1))
			continue
		}
		what, ok := regionNames[r.Kind]
		if !ok {
			what = clean(r.Kind)
		}
		t.Regions = append(t.Regions, regionRow{what, clean(r.Device), sizeText(uint64(r.Start)),
			sizeText(uint64(r.Length)), clean(r.State)})
	}
	for i, c := range s.Cells {
		if i >= maxPlaces {
			t.More = len(s.Cells) - maxPlaces
			break
		}
		from := s.From + c.Cell*s.PerCell
		t.Places = append(t.Places, placeRow{numText(from),
			numText(min(from+s.PerCell, s.To) - 1), some(c.Mapped), some(c.Pending), some(c.Lost)})
	}
	return t
}

// some is a number, or nothing if it is 0.
func some(n uint64) string {
	if n == 0 {
		return ""
	}
	return numText(n)
}
