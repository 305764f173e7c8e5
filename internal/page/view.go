package page

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"ublkremap/internal/control"
	"ublkremap/internal/health"
	"ublkremap/internal/readable"
	"ublkremap/internal/shell"
)

// tone says how bad something is. The page shows it as a mark, a colour and words.
type tone int

const (
	toneBad tone = iota
	toneWatch
	toneGood
)

// Class is the name of a tone in the style sheet.
func (t tone) Class() string { return [...]string{"bad", "watch", "good"}[t] }

// Mark is the sign for a tone.
func (t tone) Mark() string { return [...]string{"✕", "!", "✓"}[t] }

// frame is what each page has around it.
type frame struct {
	Title, Host, Version, Build string
	Root                        string // the way to / from here: a proxy may have it elsewhere
	Live                        string // the query of /live: which device; empty: all
	At                          string
}

// row is what the list has of a device.
type row struct {
	ID, Path string
	Name     string
	Device   string // path
	Disk     string // path
	Tone     tone
	rank     int
	State    string // the word that status has for it
	Says     string // in words
	Do       string // the next thing to do, in words
	Command  string // the command for it, to type
	Answered bool   // if not, the figures are not known
	Size     string
	Spare    spare
	Pending  uint64
	Lost     uint64
	Slow     uint64
	Scrub    string
	ScrubSub string
}

// spare is how the spare region is.
type spare struct {
	Total, Used, Free uint64
	Share             float64 // used, of 100
	Tone              tone
	Lasts             string // at this rate
	Between           string // the bounds of its interval
	Of                string // how many are used of how many
}

// ranks of states, from bad to good. Those of one rank are in the order of their names.
const (
	rankFailed = iota
	rankUnreachable
	rankTripped
	rankLost
	rankWaiting
	rankFull
	rankRecovering
	rankDegraded
	rankPending
	rankStopping
	rankSpare
	rankSlow
	rankGood
)

// idOf is the id of an element for a device. Names can be anything.
func idOf(key string) string {
	sum := sha256.Sum256([]byte(key))
	return "d" + hex.EncodeToString(sum[:8])
}

// pathOf is the part of a path that stands for a device.
func pathOf(key string) string { return url.PathEscape(key) }

// rowOf describes a device.
func (d *device) rowOf(key string, now time.Time) row {
	st := d.current(now)
	r := row{ID: idOf(key), Path: pathOf(key), Name: clean(cmp.Or(st.Name, st.Device)),
		Device: clean(st.Device), Disk: clean(st.Backing), State: clean(string(st.State)),
		Answered: st.HasFigures(), Size: sizeText(st.SizeBlocks * uint64(st.BlockSize)),
		Pending: st.Pending, Lost: st.Lost}
	if st.SizeBlocks == 0 {
		r.Size = "–"
	}
	r.judge(st)
	if !r.Answered {
		return r
	}
	report := d.health(now)
	r.Spare = spareOf(st, &report)
	if d.scrub != nil {
		for _, s := range d.scrub.SlowBlocks {
			r.Slow += s.Count
		}
	}
	r.low(st)
	r.Scrub, r.ScrubSub = scrubText(&st.Scrub, now)
	return r
}

// Named reports whether what it says begins with a path, in which no letter is to be changed.
func (r row) Named() bool { return strings.HasPrefix(r.Says, "/") }

// judge sets how bad it is, and says it in words: those of the status, and where that has none,
// those of docs/OPERATIONS.md.
func (r *row) judge(st *control.Status) {
	r.Says, r.Do, r.Command = clean(st.Reason), "", ""
	words, typed := command(st.Action)
	r.Do, r.Command = clean(words), clean(typed)
	blocks := func() {
		r.Do, r.Command = "restore the files from a backup; these are", clean(shell.Command("files",
			st.Name))
	}
	switch {
	case st.State == control.StateFailed:
		r.rank, r.Tone = rankFailed, toneBad
	case st.State == control.StateUnreachable:
		r.rank, r.Tone = rankUnreachable, toneBad
		if st.Action == "" {
			r.Do, r.Command = "see", clean(shell.Command("status", st.Name))
		}
	case st.State == control.StateTripped:
		r.rank, r.Tone = rankTripped, toneBad
	case st.Lost > 0 && st.State == control.StateLive:
		r.rank, r.Tone = rankLost, toneBad
		r.Says = badBlocks(st)
		blocks()
	case st.WaitingSince != nil:
		r.rank, r.Tone = rankWaiting, toneBad
	case st.Spare.Free == 0 && st.HasFigures():
		r.rank, r.Tone = rankFull, toneBad
	case st.State == control.StateRecovering:
		r.rank, r.Tone = rankRecovering, toneWatch
	case st.State == control.StateDegraded:
		r.rank, r.Tone = rankDegraded, toneWatch
	case st.State == control.StateStopping:
		r.rank, r.Tone = rankStopping, toneWatch
	case st.Pending > 0:
		r.rank, r.Tone = rankPending, toneWatch
		r.Says = badBlocks(st)
		blocks()
	default:
		r.rank, r.Tone, r.Says = rankGood, toneGood, cmp.Or(r.Says, "all is well")
	}
	if st.Lost > 0 && r.rank > rankLost {
		r.rank, r.Tone = rankLost, toneBad
	}
	// Data that is gone is not hidden behind another reason.
	if bad := badBlocks(st); bad != "" && !strings.Contains(r.Says, bad) {
		r.Says += "; " + bad
	}
}

// badBlocks says how many blocks cannot be read; empty: all can.
func badBlocks(st *control.Status) string {
	lost := counted(st.Lost, "block has lost its data", "blocks have lost their data")
	switch {
	case st.Lost == 0 && st.Pending == 0:
		return ""
	case st.Lost == 0:
		return counted(st.Pending, "block does", "blocks do") + " not read"
	case st.Pending == 0:
		return lost
	}
	return lost + ", and " + counted(st.Pending, "does", "do") + " not read"
}

// low makes a device that is well one to watch if its spare units become few, or requests are slow.
func (r *row) low(st *control.Status) {
	if r.rank <= rankSpare {
		return
	}
	see := func(rank int, says, verb string) {
		r.rank, r.Tone, r.Says = rank, toneWatch, says
		r.Do, r.Command = "look at the disk", clean(shell.Command(verb, st.Name))
	}
	switch {
	case r.Spare.Tone != toneGood:
		see(rankSpare, counted(st.Spare.Free, "spare unit is", "spare units are")+" free", "health")
	case st.Requests.SlowSince != nil:
		see(rankSlow, counted(uint64(st.Requests.Slow), "request waits", "requests wait")+
			" for the disk", "health")
	case r.Slow > 0:
		see(rankSlow, counted(r.Slow, "block is", "blocks are")+" slow to read", "health")
	}
}

// Limits of the spare region, those of package health: less is free than this share of it.
const (
	littleSpare = 0.05
	lessSpare   = 0.25
	soonDays    = 7
	laterDays   = 90
)

// spareOf describes the spare region.
func spareOf(st *control.Status, report *health.Report) spare {
	s := spare{Total: st.Spare.Total, Used: st.Spare.Used, Free: st.Spare.Free, Tone: toneGood,
		Lasts: "no end seen", Between: "no new bad blocks",
		Of: numText(st.Spare.Used) + " of " + numText(st.Spare.Total)}
	if s.Total > 0 {
		free := float64(s.Free) / float64(s.Total)
		s.Share = 100 * (1 - free)
		switch {
		case free <= littleSpare:
			s.Tone = toneBad
		case free <= lessSpare:
			s.Tone = toneWatch
		}
	}
	if s.Total > 0 && s.Free == 0 {
		s.Lasts, s.Between = "used up", ""
		return s
	}
	if report.SpareDays == nil {
		return s
	}
	s.Lasts, s.Between = daysText(*report.SpareDays), ""
	low, high := daysText(*report.SpareDaysLow), daysText(*report.SpareDaysHigh)
	if low != high {
		s.Between = low + " to " + high
	}
	switch {
	case *report.SpareDaysHigh < soonDays:
		s.Tone = toneBad
	case *report.SpareDays < laterDays:
		s.Tone = min(s.Tone, toneWatch)
	}
	return s
}

// scrubText says how far the scrub is, and when it ended last.
func scrubText(s *control.Scrub, now time.Time) (text, sub string) {
	last := "never finished"
	if s.LastFinished != nil {
		last = readable.Ago(*s.LastFinished, now)
	}
	switch {
	case s.State == "idle" && s.LastFinished == nil:
		return "never", ""
	case s.State == "idle":
		return last, ""
	case s.Total == 0:
		return clean(s.State), last
	}
	share := 100 * float64(s.Position) / float64(s.Total)
	return fmt.Sprintf("%s, %.0f %%", clean(s.State), share), last
}

// overview is the page of all devices.
type overview struct {
	frame
	Rows   []row
	Bad    int
	Watch  int
	Good   int
	Tone   tone
	Says   string
	Failed string // why the list may lack devices
}

func (p *Page) frame(title string, now time.Time) frame {
	return frame{Root: "./", Title: title, Host: clean(p.host), Version: clean(p.version),
		Build: p.build, At: now.Local().Format("15:04:05")}
}

func (p *Page) overviewOf() *overview {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	o := &overview{Tone: toneGood}
	for key, d := range p.devices {
		o.Rows = append(o.Rows, d.rowOf(key, now))
	}
	slices.SortFunc(o.Rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), strings.Compare(a.Name, b.Name),
			strings.Compare(a.ID, b.ID))
	})
	for i := range o.Rows {
		o.Tone = min(o.Tone, o.Rows[i].Tone)
		switch o.Rows[i].Tone {
		case toneBad:
			o.Bad++
		case toneWatch:
			o.Watch++
		default:
			o.Good++
		}
	}
	switch {
	case p.listErr != nil:
		o.Failed, o.Tone = clean(p.listErr.Error()), toneBad
	case p.listing && now.Sub(p.listed) > askTime+lateAfter && !p.listed.IsZero():
		o.Failed, o.Tone = "no answer since "+stamp(p.listed), toneBad
	}
	o.Says = summary(len(o.Rows), o.Bad+o.Watch)
	o.frame = p.frame(o.Says, now)
	return o
}

// summary is the state of all devices in a sentence.
func summary(all, need int) string {
	switch {
	case all == 0:
		return "No device runs here"
	case need == 0 && all == 1:
		return "The device is well"
	case need == 0:
		return fmt.Sprintf("All %d devices are well", all)
	case all == 1:
		return "The device needs you"
	case need == 1:
		return fmt.Sprintf("1 of %d devices needs you", all)
	}
	return fmt.Sprintf("%d of %d devices need you", need, all)
}

// overviewParts adds the parts of the page of all devices, and returns the order of the devices.
func (p *Page) overviewParts(parts map[string]string) []string {
	o := p.overviewOf()
	order := make([]string, len(o.Rows))
	parts["summary"] = p.part("summary", o)
	for i := range o.Rows {
		order[i] = o.Rows[i].ID
		parts[order[i]] = p.part("row", &o.Rows[i])
	}
	return order
}

// part is a template as text. The templates are tested with all that they can be given.
func (p *Page) part(name string, data any) string {
	var b bytes.Buffer
	if err := p.look.ExecuteTemplate(&b, name, data); err != nil {
		return ""
	}
	return strings.TrimSpace(b.String())
}
