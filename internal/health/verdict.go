package health

import (
	"fmt"
	"math"
	"strings"

	"ublkremap/internal/readable"
)

// Verdict is what to do about a disk.
type Verdict string

// The verdicts, from good to bad. Unknown: nothing is known of the disk, good or bad.
const (
	Good       Verdict = "good"
	Unknown    Verdict = "unknown"
	Watch      Verdict = "watch"
	ReplaceNow Verdict = "replace_now"
)

// Report is the health of a set.
type Report struct {
	Verdict Verdict  `json:"verdict"`
	Reasons []string `json:"reasons"` // the worst first; never empty
	// Smart is the first of Drives, or null.
	Smart      *Drive   `json:"smart"`
	Drives     []Drive  `json:"drives"`
	Pattern    Pattern  `json:"pattern"`
	RatePerDay float64  `json:"rate_per_day"` // spare units
	SpareDays  *float64 `json:"spare_days"`   // null: the spare region lasts at this rate
	// the bounds of the 95 % interval of spare_days
	SpareDaysLow  *float64 `json:"spare_days_low"`
	SpareDaysHigh *float64 `json:"spare_days_high"`
}

// Limits of the rules. Where a number is a matter of judgement, a person who looks after many disks
// would put it there.
const (
	fewReallocated  = 10  // drives have spare sectors for these, and many never get more
	fewCRC          = 100 // a cable that was plugged in once too often
	manyUncorrected = 10
	hot             = 60 // °C, of a drive that tells no limit: hard disks are specified for that
	soonDays        = 7
	laterDays       = 90
	fastUnits       = 100 // new ones within a day
	littleSpare     = 0.05
	lessSpare       = 0.25
)

// findings collects what speaks for a verdict.
type findings struct {
	replace, watch, good []string
	known                bool
}

func (f *findings) add(v Verdict, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	switch v {
	case ReplaceNow:
		f.replace = append(f.replace, text)
	case Watch:
		f.watch = append(f.watch, text)
	default:
		f.good = append(f.good, text)
	}
}

// Judge says how the disk of a set is doing. drives are the disks below the set.
func Judge(seen *Seen, drives []Drive) Report {
	r := Report{Drives: drives, Pattern: patternOf(seen)}
	if drives == nil {
		r.Drives = []Drive{}
	}
	rate := rateOf(seen)
	r.RatePerDay = rate.PerDay
	r.SpareDays, r.SpareDaysLow, r.SpareDaysHigh = rate.Days, rate.Low, rate.High
	var f findings
	for i := range drives {
		f.drive(&drives[i], len(drives) > 1)
	}
	if len(drives) > 0 {
		r.Smart = &drives[0]
	}
	f.seen(seen, &rate, &r.Pattern)
	f.together(seen, drives)
	switch {
	case len(f.replace) > 0:
		r.Verdict = ReplaceNow
	case len(f.watch) > 0:
		r.Verdict = Watch
	case !f.known:
		r.Verdict = Unknown
	default:
		r.Verdict = Good
	}
	r.Reasons = append(append(f.replace, f.watch...), f.good...)
	return r
}

// positive reports whether a drive counts something.
func positive(n *int64) bool { return n != nil && *n > 0 }

// drive adds what a drive says of itself.
func (f *findings) drive(d *Drive, several bool) {
	name := "the drive"
	if several {
		name = d.Disk
	}
	say := func(v Verdict, format string, args ...any) {
		f.add(v, "%s", name+" "+fmt.Sprintf(format, args...))
	}
	if !d.says() {
		f.add(Good, "nothing is known from %s itself: %s", name, d.Note)
		return
	}
	f.known = true
	if d.Passed != nil && !*d.Passed {
		say(ReplaceNow, "says itself that it fails (SMART status)")
	}
	for _, a := range d.Failing {
		say(ReplaceNow, "says that %s is below its threshold", a)
	}
	for _, w := range d.Warnings {
		say(ReplaceNow, "warns: %s", w)
	}
	if d.Hot {
		say(Watch, "says that its temperature is beyond its limits: look after its cooling")
	}
	for _, a := range d.Failed {
		say(Watch, "says that %s was below its threshold once", a)
	}
	f.sectors(d, say)
	f.wear(d, say)
	if len(f.replace)+len(f.watch) == 0 && d.Passed != nil {
		say(Good, "says itself that it is well")
	}
}

// sectors adds what a drive counts of sectors and errors.
func (f *findings) sectors(d *Drive, say func(Verdict, string, ...any)) {
	if d.SelfTestFailed {
		say(Watch, "failed its newest self-test (%s)", d.SelfTest)
	}
	if positive(d.Pending) {
		say(Watch, "has %s that do not read", sectors(*d.Pending))
	}
	switch n := d.Reallocated; {
	case !positive(n):
	case *n < fewReallocated:
		say(Good, "has replaced %s, as many drives do", sectors(*n))
	default:
		say(Watch, "has replaced %s", sectors(*n))
	}
	if positive(d.OfflineUncorrectable) {
		say(Watch, "found %s in its own scan that do not read", sectors(*d.OfflineUncorrectable))
	}
	if positive(d.Uncorrected) {
		say(Watch, "has reported %s that it could not correct",
			readable.Count(uint64(*d.Uncorrected), "error", "errors"))
	}
	switch n := d.UncorrectedWrite; {
	case !positive(n):
	case *n < manyUncorrected:
		say(Watch, "has failed %s", readable.Count(uint64(*n), "write", "writes"))
	default:
		say(ReplaceNow, "has failed %s: it has no sectors left to replace bad ones",
			readable.Count(uint64(*n), "write", "writes"))
	}
	if positive(d.EndToEnd) {
		say(Watch, "found %s between its cache and its interface",
			readable.Count(uint64(*d.EndToEnd), "error", "errors"))
	}
	if positive(d.SpinRetries) {
		say(Watch, "needed %s to spin up: its motor or its power supply",
			readable.Count(uint64(*d.SpinRetries), "retry", "retries"))
	}
}

func sectors(n int64) string { return readable.Count(uint64(n), "sector", "sectors") }

// wear adds what a drive says of its endurance, its link and its temperature.
func (f *findings) wear(d *Drive, say func(Verdict, string, ...any)) {
	if d.SpareLeft != nil && d.SpareThreshold != nil && *d.SpareThreshold > 0 &&
		*d.SpareLeft <= *d.SpareThreshold {
		say(ReplaceNow, "has %d %% of its spare blocks left; its threshold is %d %%", *d.SpareLeft,
			*d.SpareThreshold)
	}
	if n := d.EnduranceUsed; n != nil && *n >= 100 {
		say(Watch, "has used %d %% of the endurance that it is rated for", *n)
	}
	switch n := d.CRC; {
	case !positive(n):
	case *n < fewCRC:
		say(Good, "has counted %s of its link, which old cables explain",
			readable.Count(uint64(*n), "error", "errors"))
	default:
		say(Watch, "has counted %s of its link: check the cable and the backplane",
			readable.Count(uint64(*n), "error", "errors"))
	}
	if t := d.Temperature; t != nil {
		switch limit := d.TemperatureOf; {
		case limit != nil && *t >= *limit:
			say(Watch, "has %d °C; its limit is %d °C", *t, *limit)
		case limit == nil && *t > hot && d.EnduranceUsed == nil:
			say(Watch, "has %d °C", *t)
		}
	}
}

// seen adds what the server has seen.
func (f *findings) seen(s *Seen, rate *Rate, p *Pattern) {
	if s.Unknown {
		return
	}
	if s.Tripped {
		stopped := "remapping is stopped: " + strings.TrimSuffix(s.Reason, ".")
		if s.wayFails() {
			f.add(Watch, "%s; check cable, power and controller first", stopped)
		} else {
			f.add(ReplaceNow, "%s", stopped)
		}
	}
	if s.Lost > 0 {
		f.add(Watch, "%s lost their data; restore them from a backup",
			readable.Count(s.Lost, "block has", "blocks have"))
	}
	if s.Pending > 0 {
		f.add(Watch, "%s read; a write or a backup heals them",
			readable.Count(s.Pending, "block does not", "blocks do not"))
	}
	f.spare(s, rate)
	if p.Text != "" {
		v := Good
		if p.Kind == PatternGrowing || p.Kind == PatternStripes {
			v = Watch
		}
		f.add(v, "%s", p.Text)
	}
	if rate.Incidents == 0 && len(s.Bad) > 0 {
		f.add(Good, "no new bad block in %s", readable.Days(rate.Over))
	}
}

// spare adds what there is to say of the spare region.
func (f *findings) spare(s *Seen, rate *Rate) {
	if n := newUnits(s, s.Now.Add(-day)); n >= fastUnits {
		f.add(ReplaceNow, "%s were needed within a day",
			readable.Count(n, "spare unit", "spare units"))
	}
	if s.Spare > 0 {
		left := float64(s.SpareFree) / float64(s.Spare)
		switch percent := int(math.Round(left * 100)); {
		case left <= littleSpare:
			f.add(ReplaceNow, "%d %% of the spare region are left", percent)
		case left <= lessSpare:
			f.add(Watch, "%d %% of the spare region are left", percent)
		}
	}
	if rate.Days == nil {
		return
	}
	v := Good
	switch {
	// One incident is no rate. With three, the interval says something.
	case *rate.High < soonDays || *rate.Days < soonDays && rate.Incidents >= 3:
		v = ReplaceNow
	case *rate.Days < laterDays || rate.Incidents > 1:
		v = Watch
	}
	lasts, between := Lasts(*rate.Days, *rate.Low, *rate.High)
	if between != "" {
		lasts += " (" + between + ")"
	}
	times := "once"
	if rate.Incidents > 1 {
		times = readable.Number(uint64(rate.Incidents)) + " times"
	}
	f.add(v, "the disk got worse %s in %s; at this rate the spare region lasts %s", times,
		readable.Days(rate.Over), lasts)
}

// together adds what shows itself only in both.
func (f *findings) together(s *Seen, drives []Drive) {
	crc, clean := false, len(drives) > 0
	for i := range drives {
		d := &drives[i]
		crc = crc || positive(d.CRC)
		clean = clean && d.says() && !positive(d.Pending) && !positive(d.Reallocated) &&
			!positive(d.Uncorrected) && !positive(d.OfflineUncorrectable)
	}
	if s.Transport > 0 {
		f.known = true
		if crc {
			f.add(Watch, "the server met %s of the way to the disk, and the drive counts errors "+
				"of its link: the cable, not the disk",
				readable.Count(s.Transport, "error", "errors"))
		} else {
			f.add(Watch, "the server met %s of the way to the disk: check cable, power and "+
				"controller", readable.Count(s.Transport, "error", "errors"))
		}
	}
	if len(s.Bad) > 0 {
		f.known = true
		if clean {
			f.add(Watch, "the server met bad blocks, and the drive counts none: do not rely on "+
				"what it says of itself")
		}
	}
	if !f.known && !s.Unknown {
		f.add(Good, "the server has met no bad block")
	}
}
