package metadata

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"
)

// recorderRig drives a Recorder over disks in memory.
type recorderRig struct {
	t     *testing.T
	r     *rand.Rand
	disks []*memDisk
	rec   *Recorder
	now   int64
	epoch uint64

	under   []RecorderOp
	written map[copyPlace]bool
	noted   map[uint64]Event // by number, as they were noted last
	lives   map[Event]bool   // all that were ever noted
	on      map[uint64]bool  // events that are on a disk, or were
	durable uint64           // the newest of them
	bad     bool             // places do not take writes, or do not read
}

func newRecorderRig(t *testing.T, seed uint64, p PlanParams) *recorderRig {
	g := &recorderRig{t: t, r: seeded(t, seed), noted: map[uint64]Event{},
		lives: map[Event]bool{}, on: map[uint64]bool{},
		written: map[copyPlace]bool{}, now: 1e9}
	p.Name = "recorder"
	plan, err := Plan(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range plan.Devices() {
		g.disks = append(g.disks, newMemDisk(d.Size))
	}
	if err := Create(devices(g.disks), plan, nil); err != nil {
		t.Fatal(err)
	}
	g.start()
	return g
}

// start loads what is on the disks, as a start does.
func (g *recorderRig) start() {
	img, err := Load(devices(g.disks))
	if err != nil {
		g.t.Fatal(err)
	}
	g.under = nil
	if g.rec = NewRecorder(img); g.rec == nil {
		g.t.Fatal("the set has no room for a recorder")
	}
	g.epoch++
	g.rec.Begin(g.epoch, g.now)
}

func (g *recorderRig) note(e Event) {
	g.rec.Note(&e, g.now)
	g.rescan()
}

// begin takes all writes that are due.
func (g *recorderRig) begin() {
	for op, ok := g.rec.Next(g.now); ok; op, ok = g.rec.Next(g.now) {
		g.place(op)
		g.under = append(g.under, op)
		if _, err := g.disks[op.Device].WriteAt(op.Data, op.Offset); err != nil {
			g.under = g.under[:len(g.under)-1]
			g.rec.Done(op.Lane, err, g.now)
		}
	}
}

// place makes sure that a write goes to a place where there was nothing.
func (g *recorderRig) place(op RecorderOp) {
	at := copyPlace{op.Device, op.Offset}
	if p := g.disks[op.Device].pages[op.Offset/PageSize]; len(op.Data) != PageSize ||
		!g.written[at] && p != nil && *p != [PageSize]byte{} {
		g.t.Fatalf("a write of %d bytes at %d of device %d, over something else", len(op.Data),
			op.Offset, op.Device)
	}
	g.written[at] = true
}

// end ends the writes that are under way.
func (g *recorderRig) end() {
	for _, op := range g.under {
		if err := g.disks[op.Device].Sync(); err != nil {
			g.t.Fatal(err)
		}
		p, _ := decodeEvents(op.Data, &g.rec.set)
		for n := range uint64(p.count) {
			g.on[p.first+n] = true
		}
		g.durable = max(g.durable, p.first+uint64(p.count)-1)
		g.rec.Done(op.Lane, nil, g.now)
	}
	g.under = nil
}

// cut cuts the power, and starts again. What was durable must be there.
func (g *recorderRig) cut() {
	for i, d := range g.disks {
		c := d.cut(g.r)
		c.failWrite, c.dead = d.failWrite, d.dead
		g.disks[i] = c
	}
	g.inspect()
	g.start()
	// What was not durable may be forgotten, and its numbers are used again.
	for n := range g.noted {
		if n >= g.rec.EventNumber() {
			delete(g.noted, n)
			delete(g.on, n)
		}
	}
	g.durable = min(g.durable, g.rec.EventNumber()-1)
}

// inspect compares what is on the disks with what was noted.
func (g *recorderRig) inspect() {
	g.t.Helper()
	got, err := EventsOn(devices(g.disks))
	if err != nil {
		g.t.Fatal(err)
	}
	has, newest := map[uint64]bool{}, g.durable
	for i := range got {
		e := got[i]
		// A page that was torn can become whole by another torn write, with what was noted then.
		if want := g.noted[e.Number]; e != want && (g.on[e.Number] || !g.lives[e]) {
			g.t.Fatalf("event %d is %+v, it was noted as %+v", e.Number, e, want)
		}
		has[e.Number], newest = true, max(newest, e.Number)
	}
	kept := uint64(len(g.rec.heads)-3) * eventsPerPage
	for n := g.durable; n > 0 && n+kept > newest; n-- {
		if !has[n] && g.on[n] && !g.bad {
			g.t.Fatalf("event %d of %d durable ones is gone; %d are there", n, g.durable, len(got))
		}
	}
}

func recorderPlans() []PlanParams {
	alone, pair, wide := smallParams(512, 0), pairParams(4096), smallParams(512, 0)
	wide.PhysicalBlockSize = 16384
	wide.BackingSize *= 4
	return []PlanParams{alone, pair, wide}
}

// TestRecorder: events that are on disk survive power cuts at any moment, and nothing else on the
// disks is touched.
func TestRecorder(t *testing.T) {
	for seed := range uint64(45) {
		g := newRecorderRig(t, seed, recorderPlans()[seed%3])
		for range 400 {
			switch g.r.IntN(12) {
			case 0:
				g.cut()
			case 1, 2:
				g.now += int64(g.r.IntN(4e9))
				g.rec.Settle(&Event{Micros: g.now / 1000}, g.now, false)
				g.rescan()
				g.begin()
			case 3, 4:
				g.end()
			case 5:
				if g.r.IntN(10) == 0 {
					g.now += 1e12
				}
			default:
				for range g.r.IntN(60) {
					g.note(g.event())
				}
			}
		}
		g.cut()
		if r, err := Check(devices(g.disks)); err != nil || !r.OK() {
			t.Fatalf("check: %v\n%s", err, r.String())
		}
	}
}

// rescan takes what was noted, and the words on what was left out.
func (g *recorderRig) rescan() {
	for n := g.rec.EventNumber() - 1; n > 0; n-- {
		if _, known := g.noted[n]; known {
			return
		}
		b, first := g.rec.Events(nil, n, 1)
		if len(b) == 0 {
			return
		}
		g.noted[n] = AppendEvents(nil, b, first)[0]
		g.lives[g.noted[n]] = true
	}
}

func (g *recorderRig) event() Event {
	e := Event{Micros: g.now / 1000, Kind: EventKind(1 + g.r.IntN(len(eventNames)+4)),
		Done: EventDone(g.r.IntN(20)), Errno: uint16(g.r.IntN(200)), Device: uint8(g.r.IntN(3)),
		Block: g.r.Uint64(), Count: g.r.Uint32(), Detail: g.r.Uint64(), Latency: g.r.Uint32(),
		Temperature: int8(g.r.IntN(256) - 128)}
	e.HasBlock, e.HasLatency, e.HasTemperature = g.r.IntN(2) == 0, g.r.IntN(2) == 0,
		g.r.IntN(2) == 0
	return e
}

// TestRecorderBadPlaces: places of its own that take no writes, or do not read, cost at most the
// pages there.
func TestRecorderBadPlaces(t *testing.T) {
	for seed := range uint64(40) {
		g := newRecorderRig(t, seed, recorderPlans()[seed%2])
		g.bad = true
		for _, l := range g.rec.lanes {
			d, left := g.disks[l.device], len(l.slots)/2
			for _, s := range l.slots {
				if left > 0 && g.r.IntN(2) == 0 {
					left--
					if off := s.offset; g.r.IntN(2) == 0 {
						before := d.failWrite
						d.failWrite = func(at int64, n int) bool {
							return at == off || before != nil && before(at, n)
						}
					} else {
						d.dead = append(d.dead, [2]int64{off, off + PageSize})
					}
				}
			}
		}
		for range 200 {
			g.note(g.event())
			g.now += int64(g.r.IntN(6e9))
			g.rescan()
			g.begin()
			g.end()
		}
		g.rec.Hurry(g.now)
		for range 100 {
			g.begin()
			g.end()
		}
		if !g.rec.Idle() {
			t.Fatalf("it does not end: %+v", g.rec.lanes)
		}
		g.inspect()
		got, err := EventsOn(devices(g.disks))
		if err != nil {
			t.Fatal(err)
		}
		// The newest page is on one lane at least, unless it hit a place that lies about writes.
		if n := len(got); n < 60 {
			t.Fatalf("%d events are left of %d", n, g.rec.EventNumber()-1)
		}
		g.cut()
	}
}

// TestRecorderDies: a device that answers nothing does not keep the events from the other.
func TestRecorderDies(t *testing.T) {
	g := newRecorderRig(t, 1, pairParams(512))
	g.disks[0].failWrite = func(int64, int) bool { return true }
	for i := range 150 {
		g.note(Event{Kind: EventKind(1 + i%20), Count: uint32(i)})
		g.now += 3e9
		g.begin()
		g.end()
	}
	got, err := EventsOn([]Device{g.disks[1]})
	if err != nil || len(got) != 150 || got[149].Count != 149 {
		t.Fatalf("%d events, %v", len(got), err)
	}
}

// TestRecorderFlood: a kind of event that comes in floods is counted, and others are kept.
func TestRecorderFlood(t *testing.T) {
	g := newRecorderRig(t, 1, smallParams(512, 0))
	g.note(Event{Kind: EventStart})
	const flood = 100_000
	told := func() (one, omitted uint32) {
		b, first := g.rec.Events(nil, 1, 1<<20)
		for _, e := range AppendEvents(nil, b, first) {
			switch e.Kind {
			case EventRemap:
				one++
			case EventThinned:
				omitted += e.Count
				if EventKind(e.Detail) != EventRemap {
					t.Fatalf("%+v", e)
				}
			case EventStart:
				if e.Number != 1 {
					t.Fatalf("%+v", e)
				}
			}
		}
		return one, omitted
	}
	for range flood {
		g.rec.Note(&Event{Kind: EventRemap}, g.now)
		g.now += 1e6
	}
	g.now += floodEvery
	g.rec.Settle(&Event{}, g.now, false)
	one, omitted := told()
	if one+omitted != flood || one > 200 {
		t.Errorf("%d one by one, %d left out, of %d", one, omitted, flood)
	}
	if b, first := g.rec.Events(nil, 1, 1); first != 1 ||
		AppendEvents(nil, b, first)[0].Kind != EventStart {
		t.Error("the flood has pushed out what came before")
	}
}

// TestRecorderNoAllocation: events are noted and written while memory is short.
func TestRecorderNoAllocation(t *testing.T) {
	g := newRecorderRig(t, 1, pairParams(512))
	e := Event{Kind: EventRemap}
	if n := testing.AllocsPerRun(1000, func() {
		g.now += 40e9
		g.rec.Note(&e, g.now)
		g.now += 40e9
		for {
			op, ok := g.rec.Next(g.now)
			if !ok {
				break
			}
			g.rec.Done(op.Lane, nil, g.now)
		}
		g.rec.Due()
		g.rec.Idle()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestEventPlaces: the slots lie in no superblock, in no region and not in the data, on sets of all
// kinds. Where atoms are large there are none.
func TestEventPlaces(t *testing.T) {
	for _, p := range append(recorderPlans(), PlanParams{BackingSize: 1 << 30, BlockSize: 4096,
		PhysicalBlockSize: 65536}, PlanParams{BackingSize: 1<<28 + 5*512, BlockSize: 512,
		PhysicalBlockSize: 32768, Bad: []BadRange{{End: 4096}}}) {
		p.Name = "places"
		l, err := Plan(p)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, lane := range eventLanes(&l.sb) {
			for _, s := range lane.slots {
				n++
				end := s.offset + int64(l.sb.AtomSize)
				for _, off := range l.sb.copies(lane.device) {
					if off < end && s.offset < off+PageSize {
						t.Errorf("%+v: slot at %d, superblock at %d", p, s.offset, off)
					}
				}
				for _, r := range l.sb.Regions {
					if r.Device == lane.device && r.Start < end && s.offset < r.Start+r.Length {
						t.Errorf("%+v: slot at %d, %s at %d", p, s.offset, r.Kind, r.Start)
					}
				}
				if lane.device == 0 && s.offset >= l.sb.HeadBytes &&
					s.offset < l.sb.ExportedBytes || end > l.sb.Devices[lane.device].Size {
					t.Errorf("%+v: slot at %d", p, s.offset)
				}
			}
		}
		if n == 0 != (p.PhysicalBlockSize == 65536) {
			t.Errorf("%+v: %d slots", p, n)
		}
	}
}

// TestEventsCompat: a start of a version with a recorder sets the feature bit, and a dump shows
// what the recorder holds.
func TestEventsCompat(t *testing.T) {
	g := newRecorderRig(t, 1, smallParams(512, 0))
	img, err := Load(devices(g.disks))
	if err != nil {
		t.Fatal(err)
	}
	table, err := img.Table()
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCommitter(img, table, Options{Session: 1, Recorder: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Open(1); err != nil {
		t.Fatal(err)
	}
	RunOps(c, devices(g.disks), nil)
	if sb, err := Probe(g.disks[0]); err != nil || sb.Compat&compatEvents == 0 {
		t.Fatalf("%+v: %v", sb, err)
	}
	g.note(Event{Kind: EventRemap, Micros: 1_700_000_000_123_456, Block: 77, HasBlock: true,
		Count: 3, Errno: uint16(syscall.ENODATA), Latency: 42, HasLatency: true, Detail: 9,
		Done: EventDone(CauseWrite)})
	g.now += 3e9
	g.begin()
	g.end()
	d, err := Dump(devices(g.disks))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := d.WriteJSON(&out, " "); err != nil {
		t.Fatal(err)
	}
	var doc struct{ Events []map[string]any }
	if err := json.Unmarshal([]byte(out.String()), &doc); err != nil || len(doc.Events) != 1 {
		t.Fatalf("%v: %+v", err, doc)
	}
	want := map[string]any{"time": "2023-11-14T22:13:20.123Z", "what": "remap", "block": 77.0,
		"count": 3.0, "errno": 61.0, "latency_us": 42.0, "temperature": nil,
		"done": "remapped to the spare region, from unit 9 on; cause: write"}
	for name, value := range want {
		if doc.Events[0][name] != value {
			t.Errorf("%s is %v, want %v", name, doc.Events[0][name], value)
		}
	}
	if len(doc.Events[0]) != len(want) {
		t.Errorf("%v", doc.Events[0])
	}
	if b, err := DecodeDump(strings.NewReader(out.String())); err != nil || b == nil {
		t.Errorf("the dump cannot be restored: %v", err)
	}
}

// TestEventTexts: every kind and everything that was done has words, also values of later versions.
func TestEventTexts(t *testing.T) {
	seen := map[string]bool{}
	for kind := range EventKind(len(eventNames) + 3) {
		if name := kind.String(); name == "" || seen[name] {
			t.Errorf("kind %d is called %q", kind, name)
		} else {
			seen[name] = true
		}
		for done := range EventDone(len(doneTexts) + 3) {
			e := Event{Kind: kind, Done: done}
			if text := e.Text(); strings.ContainsAny(text, "\n%") {
				t.Errorf("%+v: %q", e, text)
			}
		}
	}
}

// FuzzEvents reads anything as a page of events.
func FuzzEvents(f *testing.F) {
	set := uuid.NewSHA1(uuid.NameSpaceOID, []byte("fuzz"))
	b := make([]byte, PageSize)
	putEvent(b[eventsHeader:], &Event{Kind: EventRemap, Block: 1, HasBlock: true})
	eventsPage{number: 1, first: 1, epoch: 2, count: 1}.encode(b, &set)
	f.Add(b, true)
	f.Add(b, false)
	f.Fuzz(func(t *testing.T, data []byte, fix bool) {
		magic := uint64(0)
		if fix {
			magic = magicEvents
		}
		b := page(data, magic)
		if fix && len(data) >= bodyAt {
			copy(b[setAt:bodyAt], set[:])
			seal(b)
		}
		p, ok := decodeEvents(b, &set)
		if !ok {
			return
		}
		events := AppendEvents(nil, eventsOf(b, p.count), p.first)
		if len(events) != p.count || p.count > eventsPerPage {
			t.Fatalf("%+v: %d events", p, len(events))
		}
		again := make([]byte, eventSize)
		for i := range events {
			if _, err := json.Marshal(events[i]); err != nil {
				t.Fatal(err)
			}
			putEvent(again, &events[i])
			if back := getEvent(again, events[i].Number); back != events[i] {
				t.Fatalf("%+v, again %+v", events[i], back)
			}
		}
	})
}

// TestEventsOfNobody: a disk without a set has no events.
func TestEventsOfNobody(t *testing.T) {
	if _, err := EventsOn([]Device{newMemDisk(1 << 20)}); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if !slices.Contains([]int{0, 100}, eventsPerPage) {
		t.Error("the format is frozen")
	}
}

// makeGoldenEvents gives disks a flight recorder with a history: two starts, full pages, one that
// is being filled, and a superseded copy.
func makeGoldenEvents(t *testing.T, disks []*memDisk) {
	for start := range uint64(2) {
		img, err := Load(devices(disks))
		if err != nil {
			t.Fatal(err)
		}
		r, now := NewRecorder(img), int64(1e9)
		r.Begin(10+start, now)
		write := func() {
			for op, ok := r.Next(now); ok; op, ok = r.Next(now) {
				disks[op.Device].store(memWrite{op.Offset, op.Data}, nil)
				r.Done(op.Lane, nil, now)
			}
		}
		for i := range 140 {
			e := Event{Micros: 1_700_000_000_000_000 + now/1000, Kind: EventKind(1 + i%26),
				Done: EventDone(i % 16), Errno: uint16(i % 3 * 5), Device: uint8(i % 2),
				Block: uint64(i) << 30, Count: uint32(i), Detail: uint64(i % 26),
				Latency: uint32(i) * 1000, Temperature: int8(i - 20), HasBlock: i%2 == 0,
				HasLatency: i%3 == 0, HasTemperature: i%5 != 0}
			r.Note(&e, now)
			if now += 1e9; i%50 == 0 {
				write()
			}
		}
		r.Hurry(now)
		write()
	}
}

// goldenEvents are images with a flight recorder.
var goldenEvents = []struct {
	name string
	p    PlanParams
}{
	{"v4-alone-512-events", PlanParams{BackingSize: 16 << 20, BlockSize: 512}},
	{"v4-pair-4096-events", PlanParams{BackingSize: 16 << 20, BlockSize: 4096,
		SpareBytes: 1 << 20, SpareDeviceSize: 12 << 20}},
}

// TestGoldenEvents reads the flight recorders that were ever written in this format version. If the
// test fails, the code is wrong, not the image.
func TestGoldenEvents(t *testing.T) {
	for _, g := range goldenEvents {
		plan := planGolden(t, g.name, g.p)
		made := func() (disks []*memDisk) {
			for _, d := range plan.Devices() {
				disks = append(disks, newMemDisk(d.Size))
			}
			if err := Create(devices(disks), plan, nil); err != nil {
				t.Fatal(err)
			}
			makeGoldenEvents(t, disks)
			return disks
		}
		dump := filepath.Join("testdata", g.name+".json")
		if _, err := os.Stat(dump); *writeGolden && errors.Is(err, fs.ErrNotExist) {
			disks := made()
			for i, d := range disks {
				var b bytes.Buffer
				z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
				if _, err := z.Write(d.flatten()); err != nil {
					t.Fatal(err)
				}
				if err := z.Close(); err != nil {
					t.Fatal(err)
				}
				create(t, goldenFile(g.name, i), b.Bytes())
			}
			create(t, dump, dumped(t, disks))
		}
		disks := readGolden(t, g.name)
		want, err := os.ReadFile(dump)
		if err != nil {
			t.Fatal(err)
		}
		if got := dumped(t, disks); !bytes.Equal(got, want) {
			t.Errorf("the dump differs from %s:\n%s", dump, got)
		}
		if r, err := Check(devices(disks)); err != nil || !r.OK() {
			t.Errorf("check: %v\n%s", err, r.String())
		}
		for i, d := range made() {
			if !bytes.Equal(d.flatten(), disks[i].flatten()) {
				t.Errorf("%s: device %d: the same history gives another image today", g.name, i)
			}
		}
	}
}

// pathDevice is a device whose path fails for some reads.
type pathDevice struct {
	Device
	left *int
}

func (d pathDevice) ReadAt(b []byte, off int64) (int, error) {
	if *d.left > 0 {
		*d.left--
		return 0, syscall.ENOLINK
	}
	return d.Device.ReadAt(b, off)
}

// TestRecorderPathFails: a start whose disk cannot be reached while the rings are read does not
// take them for empty. If the path comes back, the events go on; otherwise nothing is written over
// them.
func TestRecorderPathFails(t *testing.T) {
	for seed, p := range recorderPlans() {
		for _, fails := range []int{1, 50, 1 << 30} {
			g := newRecorderRig(t, uint64(seed), p)
			live := func(n int) {
				for range n {
					g.note(g.event())
					g.now += 3e9
					g.begin()
					g.end()
				}
			}
			live(130)
			left := 0
			var devs []Device
			for _, d := range g.disks {
				devs = append(devs, pathDevice{d, &left})
			}
			img, err := Load(devs)
			if err != nil {
				t.Fatal(err)
			}
			left = fails
			g.rec = NewRecorder(img)
			left = 0
			away := fails == 1<<30
			if err := g.rec.Err(); errors.Is(err, ErrPath) != away {
				t.Fatalf("%d reads fail: %v", fails, err)
			}
			if err := pathFailure(img.devs); err != nil {
				t.Errorf("the start fails: %v", err)
			}
			g.epoch++
			g.rec.Begin(g.epoch, g.now)
			if away {
				e := g.event()
				g.rec.Note(&e, g.now)
				g.now += 3e9
				g.rec.Hurry(g.now)
				if op, ok := g.rec.Next(g.now); ok || !g.rec.Idle() || g.rec.Durable() != 0 {
					t.Fatalf("it writes at %d, or does not end", op.Offset)
				}
				g.start() // the next one goes on
			}
			live(130)
			g.inspect()
			if got, err := EventsOn(devices(g.disks)); err != nil || len(got) < 260 ||
				got[len(got)-1].Number != g.rec.EventNumber()-1 {
				t.Errorf("%d reads fail: %d events, %v", fails, len(got), err)
			}
		}
	}
}
