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

	"ublkremap/internal/attention"
	"ublkremap/internal/control"
	"ublkremap/internal/health"
	"ublkremap/internal/readable"
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
	rank     attention.Rank
	State    string   // the word that status has for it
	Stated   tone     // of the state alone
	Says     []string // in sentences; the first is the most urgent
	Steps    []step   // what to do
	Answered bool     // if not, the figures are not known
	Untold   string   // why not: that no server runs, or that it does not answer
	Last     string   // what it said when it answered last; empty: nobody has asked it
	Size     string
	Spare    spare
	Pending  uint64
	Lost     uint64
	Slow     uint64
	Scrub    string
	ScrubSub string
}

// step is a thing to do.
type step struct {
	Label   string // Next, or Then
	Do      string // in words
	Command string // to type
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

// Text is how long it lasts, with the bounds.
func (s *spare) Text() string {
	if s.Between == "" {
		return s.Lasts
	}
	return s.Lasts + " (" + s.Between + ")"
}

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
		Stated: toneOf(attention.LevelOf(st.State)), Answered: st.HasFigures(),
		Size:    sizeText(st.SizeBlocks * uint64(st.BlockSize)),
		Pending: st.Pending, Lost: st.Lost}
	if st.SizeBlocks == 0 {
		r.Size = "–"
	}
	if !r.Answered {
		r.says(st.Name, attention.Of(st))
		r.Untold, r.Last = untold(st.State), d.last()
		return r
	}
	report := d.health(now)
	r.Spare = spareOf(st, &report)
	if d.scrub != nil {
		for _, s := range d.scrub.SlowBlocks {
			r.Slow += s.Count
		}
	}
	r.says(st.Name, attention.Of(st, r.besides(st, &report)...))
	r.Scrub, r.ScrubSub = scrubText(&st.Scrub, now)
	return r
}

// untold says why there are no figures.
func untold(s control.State) string {
	switch s {
	case control.StateFailed:
		return "no server runs"
	case control.StateRecovering:
		return "its server starts, or is being asked"
	}
	return "its server does not answer"
}

// last is what is known from the last answer with figures.
func (d *device) last() string {
	t := &d.told
	if t.at.IsZero() {
		return ""
	}
	return fmt.Sprintf("When its server answered last, at %s, %s of %s free, %s pending and %s "+
		"lost.", stamp(t.at), numText(t.free), counted(t.total, "spare unit was",
		"spare units were"), counted(t.pending, "block was", "blocks were"), numText(t.lost))
}

// says sets how bad it is, and what is said of it.
func (r *row) says(name string, all attention.Points) {
	r.rank, r.Tone = all.Rank(), toneOf(all.Level())
	for _, s := range all.Sentences(name) {
		r.Says = append(r.Says, clean(s))
	}
	for i, s := range all.Steps() {
		words, typed := attention.Command(s)
		label := "Next"
		if i > 0 {
			label = "Then"
		}
		r.Steps = append(r.Steps, step{label, clean(words), clean(typed)})
	}
}

// toneOf shows a level.
func toneOf(l attention.Level) tone {
	return map[attention.Level]tone{attention.Bad: toneBad, attention.Watch: toneWatch,
		attention.Good: toneGood}[l]
}

// besides is what is with a device that its status does not tell.
func (r *row) besides(st *control.Status, report *health.Report) (more []attention.Point) {
	if report.Verdict == health.ReplaceNow {
		more = append(more, attention.Point{Level: attention.Bad, Rank: attention.RankCritical,
			Says:   "the disk is to be replaced now, while it still reads",
			Do:     attention.Replace(st),
			Alerts: []string{"disk-to-replace"}})
	}
	if days := report.SpareDays; days != nil && *days < laterDays && r.Spare.Free > 0 {
		more = append(more, attention.Point{Level: attention.Watch, Rank: attention.RankSpare,
			Says:   "at this rate the spare region lasts " + r.Spare.Text(),
			Do:     attention.LookAt(st),
			Alerts: []string{"spare-goes-down"}})
	}
	if r.Slow > 0 {
		more = append(more, attention.Point{Level: attention.Watch, Rank: attention.RankSlow,
			Says: counted(r.Slow, "block is", "blocks are") + " slow to read",
			Do:   attention.LookAt(st)})
	}
	return more
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
	s.Lasts, s.Between = health.Lasts(*report.SpareDays, *report.SpareDaysLow,
		*report.SpareDaysHigh)
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
		Build: p.build, At: clock(now)}
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
	if o.Failed != "" && o.Bad+o.Watch == 0 {
		o.Says = "Not all devices are known"
	}
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
