package coordinator

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"
	"time"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// This file rehearses a heal on a device that is in use, without touching what its users have.
//
// A few free spare units are set aside. Over them a small device of its own is built, of the same
// machines as the one that is served: an Engine, an Arbiter and a Map. One of the units is its
// home, the others are its spare region. Its reads and writes go to the disk; those of places that
// are to be bad fail without being carried out. What its Arbiter commits becomes a record on the
// live metadata, which says of a unit that is free that it is free. So the path of a commit is
// exercised, and the table stays as it is.
//
// Nothing durable says that the units are set aside. After a crash in the middle they are free.

// drillSpares is how many spare units a rehearsal has beside its home.
const drillSpares = 4

// drillErrno is the error that places which are to be bad fail with: a medium error.
const drillErrno = -int32(syscall.ENODATA)

var (
	// ErrDrill is reported when a rehearsal did not go as it must.
	ErrDrill = errors.New("the drill failed")
	// errDrillUnder refuses a second rehearsal.
	errDrillUnder = errors.New("a drill is under way")
	// ErrDrillEnded is the cause of an ErrDrill if the rehearsal ended because the server ends.
	ErrDrillEnded = errors.New("the server ends")
)

// DrillStep is one step of a rehearsal.
type DrillStep struct {
	Name string
	Took time.Duration
}

// DrillResult is how a rehearsal ended.
type DrillResult struct {
	Steps   []DrillStep // that went well
	Commits int         // records that were written
	Err     error       // why it ended early: ErrDrill
}

// drillIO is a read or a write of a rehearsal.
type drillIO struct {
	write, durable bool
	device         uint8
	offset         int64
	data           []byte
	done           func(res int32)
}

// drill is a rehearsal that is under way.
type drill struct {
	c      *Coordinator
	units  []uint32 // the first is the home
	done   func(DrillResult)
	result DrillResult

	shared  *remap.Shared
	engine  *remap.Engine
	arbiter *remap.Arbiter
	bad     map[uint32]bool // units that fail

	todo     []func() // what is to be done next, one after the other
	running  bool
	ios      map[uint64]func(res int32)
	lastIO   uint64
	commits  int // under way
	over     bool
	step     int
	began    int64
	finished bool // the request of the step has ended, with res
	res      int32

	buf, scratch, zeroes []byte
}

// Drill rehearses a heal, and tells how that went. It may do so before it returns. Errors, when
// nothing was begun: remap.ErrTripped, remap.ErrSpareFull, remap.ErrBusy.
func (c *Coordinator) Drill(done func(DrillResult)) error {
	units, err := c.drillUnits()
	if err != nil {
		return err
	}
	d := &drill{c: c, units: units, done: done, bad: map[uint32]bool{},
		ios: map[uint64]func(int32){}, buf: metadata.AlignedBytes(metadata.UnitSize),
		scratch: metadata.AlignedBytes(metadata.UnitSize),
		zeroes:  metadata.AlignedBytes(metadata.UnitSize)}
	if err := d.build(); err != nil {
		c.arbiter.ReturnUnits(units)
		return err
	}
	c.drill = d
	d.beginStep()
	d.run()
	c.pump()
	return nil
}

// MayDrill returns the error with which Drill would refuse a rehearsal now.
func (c *Coordinator) MayDrill() error {
	units, err := c.drillUnits()
	if err == nil {
		c.arbiter.ReturnUnits(units)
	}
	return err
}

// drillUnits sets the spare units of a rehearsal aside.
func (c *Coordinator) drillUnits() ([]uint32, error) {
	switch {
	case c.drill != nil:
		return nil, fmt.Errorf("%w: %w", remap.ErrBusy, errDrillUnder)
	case c.closing:
		return nil, fmt.Errorf("%w: %w", remap.ErrBusy, ErrDrillEnded)
	}
	return c.arbiter.ReserveUnits(1 + drillSpares)
}

// build makes the machines of a rehearsal.
func (d *drill) build() error {
	live := d.c.shared.Geometry()
	per := live.BlocksPerUnit()
	geo := remap.Geometry{BlockSize: live.BlockSize, PhysicalBlock: live.BlockSize, Blocks: per,
		HeadBlocks: per, Devices: live.Devices, Known: live.Known}
	geo.HeadDevice, geo.HeadOffset = live.SpareOffset(d.units[0])
	for i, unit := range d.units[1:] {
		device, offset := live.SpareOffset(unit)
		geo.Spares = append(geo.Spares, remap.SpareExtent{First: uint32(i), Count: 1,
			Device: device, Offset: offset})
	}
	alloc, err := remap.NewAllocator([]remap.SpareRegion{{Count: drillSpares}})
	if err != nil {
		return err
	}
	d.shared = remap.NewShared(geo, remap.NewMap(1, int(per)))
	d.engine = remap.NewEngine(remap.EngineConfig{Depth: 1, MaxBlocks: int(per),
		ZeroBlocks: int(per)}, d.shared, drillEngine{d})
	d.arbiter = remap.NewArbiter(remap.ArbiterConfig{Queues: 1, Depth: 1, Names: d.c.names,
		Buffer: metadata.AlignedBytes(2 * metadata.UnitSize)}, d.shared, alloc, drillJournal{d},
		drillArbiter{d})
	return nil
}

// drillScript is what a rehearsal does, and what must come of it.
var drillScript = [...]struct {
	name    string
	write   bool
	pattern byte // what is written, or must be read
	fails   bool // the request must fail with the error of the medium
	before  func(*drill)
	holds   func(*remap.UnitInfo) bool // must be so afterwards
}{
	{"write", true, 1, false, nil,
		func(u *remap.UnitInfo) bool { return u.N == 0 && u.Pending == 0 }},
	{"heal a write", true, 2, false, func(d *drill) { d.bad[d.units[0]] = true },
		func(u *remap.UnitInfo) bool { return u.N == 1 && u.Pending == 0 }},
	{"read what was healed", false, 2, false, nil, nil},
	{"note what does not read", false, 0, true, func(d *drill) { d.failSpare() },
		func(u *remap.UnitInfo) bool { return u.N == 1 && u.Pending != 0 }},
	{"heal what did not read", true, 3, false, nil,
		func(u *remap.UnitInfo) bool { return u.N == 1 && u.Pending == 0 }},
	{"read it again", false, 3, false, nil, nil},
}

// failSpare makes the spare unit bad that the blocks live in.
func (d *drill) failSpare() {
	if u := d.shared.Map().Unit(0); u.N > 0 {
		d.bad[d.units[1+u.Places[0].Spare]] = true
	}
}

// beginStep begins the next step.
func (d *drill) beginStep() {
	s := &drillScript[d.step]
	if s.before != nil {
		s.before(d)
	}
	r := remap.Request{Op: remap.OpRead, Count: uint32(d.shared.Geometry().Blocks)}
	for i := range d.buf {
		d.buf[i] = 0xee
	}
	if s.write {
		r.Op, r.FUA = remap.OpWrite, true
		d.fill(d.buf, s.pattern)
	}
	d.began, d.finished = d.c.drv.Now(), false
	d.todo = append(d.todo, func() { d.engine.Submit(&r) })
}

// fill makes data that no other step has.
func (d *drill) fill(b []byte, pattern byte) {
	for i := range b {
		b[i] = byte(i>>8) ^ byte(i*7) ^ pattern
	}
}

// endStep judges what came of a step, and begins the next.
func (d *drill) endStep() {
	s := &drillScript[d.step]
	d.finished = false
	u := d.shared.Map().Unit(0)
	want := make([]byte, metadata.UnitSize)
	d.fill(want, s.pattern)
	switch {
	case s.fails && d.res != drillErrno:
		d.fail(fmt.Errorf("%s: it was answered with %d, not with the error of the medium", s.name,
			d.res))
	case !s.fails && d.res != 0:
		d.fail(fmt.Errorf("%s: %w", s.name, syscall.Errno(-d.res)))
	case !s.write && !s.fails && !bytes.Equal(d.buf, want):
		d.fail(fmt.Errorf("%s: it is not what was written", s.name))
	case s.holds != nil && !s.holds(&u):
		d.fail(fmt.Errorf("%s: the table does not say so: %+v", s.name, u))
	}
	if d.over {
		return
	}
	d.result.Steps = append(d.result.Steps, DrillStep{s.name,
		time.Duration(d.c.drv.Now() - d.began)})
	if d.step++; d.step == len(drillScript) {
		d.over = true
		return
	}
	d.beginStep()
}

// fail ends a rehearsal early.
func (d *drill) fail(err error) {
	if !d.over {
		d.over = true
		d.result.Err = fmt.Errorf("%w: %w", ErrDrill, err)
	}
}

// run does what is to be done, until it waits for the disk or has ended.
func (d *drill) run() {
	if d.running || d.c.drill != d {
		return
	}
	d.running = true
	for len(d.todo) > 0 && !d.over {
		f := d.todo[0]
		d.todo = d.todo[1:]
		f()
		if d.finished && !d.over {
			d.endStep()
		}
	}
	d.running = false
	if d.over && len(d.ios) == 0 && d.commits == 0 {
		d.c.drill = nil
		if !plantedDrillKeeps {
			d.c.arbiter.ReturnUnits(d.units)
		}
		d.done(d.result)
	}
}

// later has something done after what is under way: the machines must not be called back.
func (d *drill) later(f func()) { d.todo = append(d.todo, f) }

// begin begins a read or a write. A place that is to be bad fails. Nothing outside of the units of
// the rehearsal is ever written.
func (d *drill) begin(io drillIO) {
	unit, inside := d.unitAt(io.device, io.offset, len(io.data))
	switch {
	case d.over:
	case io.write && !inside:
		d.fail(fmt.Errorf("a write of %d bytes at %d of device %d, outside of its units",
			len(io.data), io.offset, io.device))
	case inside && d.bad[unit]:
		d.later(func() { io.done(drillErrno) })
	default:
		d.lastIO++
		d.ios[d.lastIO] = io.done
		d.c.begin(operation{drill: true, id: d.lastIO, read: !io.write, durable: io.durable,
			device: io.device, offset: io.offset, data: io.data})
	}
}

// unitAt returns the unit of the rehearsal that a place lies in.
func (d *drill) unitAt(device uint8, offset int64, n int) (unit uint32, inside bool) {
	for _, unit := range d.units {
		dev, at := d.c.shared.Geometry().SpareOffset(unit)
		if dev == device && offset >= at && offset+int64(n) <= at+metadata.UnitSize {
			return unit, true
		}
	}
	return 0, false
}

// drillDone takes the end of a read or a write: 0 if it went well.
func (c *Coordinator) drillDone(o *operation, res int32, unflushed bool) {
	d := c.drill
	done := d.ios[o.id]
	delete(d.ios, o.id)
	switch {
	case unflushed:
		d.fail(fmt.Errorf("%s: a flush failed: %w", c.name(o.device), syscall.Errno(-res)))
	case res < 0:
		d.fail(fmt.Errorf("%s: at %d: %w", c.name(o.device), o.offset, syscall.Errno(-res)))
	default:
		n := int32(len(o.data))
		d.later(func() { done(n) })
	}
	d.run()
}

// drillDue is when tickDrill must be called; 0: it need not be.
func (c *Coordinator) drillDue() int64 {
	if c.drill == nil {
		return 0
	}
	return c.drill.engine.Deadline()
}

// tickDrill gives the time to a rehearsal.
func (c *Coordinator) tickDrill(now int64) {
	d := c.drill
	if d == nil {
		return
	}
	if due := d.engine.Deadline(); due != 0 && due <= now {
		d.later(func() { d.engine.Tick(now) })
	}
	d.run()
}

// endDrill ends a rehearsal early, because the server ends. It begins nothing more. It is over once
// what it has under way has ended, and the end of the server waits for that: its units are free to
// the next server, which must not have one of its writes come in between.
func (c *Coordinator) endDrill() {
	if c.drill != nil {
		c.drill.fail(ErrDrillEnded)
		c.drill.run()
	}
}

// drillEngine is what the Engine of a rehearsal asks for.
type drillEngine struct{ d *drill }

func (e drillEngine) Now() int64 { return e.d.c.drv.Now() }

// Send hands a message to the Arbiter of the rehearsal.
func (e drillEngine) Send(m *remap.Message) {
	copied := *m
	e.d.later(func() { e.d.arbiter.Receive(&copied) })
}

// Finish takes the end of a step's request.
func (e drillEngine) Finish(_ uint16, res int32) { e.d.finished, e.d.res = true, res }

// Issue begins an operation.
func (e drillEngine) Issue(io *remap.IO) {
	d, id := e.d, io.ID
	data := d.scratch
	switch {
	case io.Op != remap.OpRead && io.Op != remap.OpWrite:
		d.later(func() { d.engine.Complete(id, -int32(syscall.EOPNOTSUPP)) })
		return
	case io.Zero:
		data = d.zeroes
	case !io.Discard:
		data = d.buf[io.Buffer:]
	}
	d.begin(drillIO{write: io.Op == remap.OpWrite, durable: io.FUA, device: io.Device,
		offset: io.Offset, data: data[:io.Length],
		done: func(res int32) { d.engine.Complete(id, res) }})
}

// drillArbiter is what the Arbiter of a rehearsal asks for.
type drillArbiter struct{ d *drill }

func (a drillArbiter) Now() int64                  { return a.d.c.drv.Now() }
func (a drillArbiter) WallClock() uint32           { return a.d.c.drv.WallClock() }
func (a drillArbiter) Missing(device uint8) string { return a.d.c.drv.Missing(device) }
func (a drillArbiter) Moved(remap.MoveResult)      {}
func (a drillArbiter) SpareFailed(remap.BadSpare)  {}

// Alert ends the rehearsal if its breaker opens. Its spare region is small, and no news.
func (a drillArbiter) Alert(alert remap.Alert) {
	if alert == remap.AlertTripped {
		a.d.fail(errors.New("its breaker opened"))
	}
}

// Send hands a message to the Engine of the rehearsal.
func (a drillArbiter) Send(_ uint16, m *remap.Message) {
	copied := *m
	a.d.later(func() { a.d.engine.Answer(&copied) })
}

// Transfer begins an operation.
func (a drillArbiter) Transfer(t *remap.Transfer) {
	d, id := a.d, t.ID
	d.begin(drillIO{write: t.Op == remap.OpWrite, durable: t.FUA, device: t.Device,
		offset: t.Offset, data: t.Data, done: func(res int32) { d.arbiter.Transferred(id, res) }})
}

// drillJournal writes a record on the live metadata for each commit of a rehearsal.
type drillJournal struct{ d *drill }

// Commit writes a record that changes nothing: a unit that is free is free.
func (j drillJournal) Commit([]metadata.Entry) (remap.Ticket, error) {
	d, c := j.d, j.d.c
	t, err := c.com.Commit([]metadata.Entry{{Spare: d.units[0], Count: 1,
		State: metadata.StateAvailable, Cause: metadata.CauseOperator, Time: c.drv.WallClock()}})
	if err != nil {
		return 0, err
	}
	d.commits++
	c.tickets[t] = func(o metadata.Outcome) {
		d.commits--
		durable := o == metadata.OutcomeDurable
		if durable {
			d.result.Commits++
		} else {
			c.drv.NotDurable(nil)
			c.arbiter.CommitUnknown()
			d.fail(errors.New("no metadata mirror on the backing disk takes a commit"))
		}
		d.later(func() {
			d.arbiter.Committed(remap.Ticket(t), durable)
			d.arbiter.Advance()
		})
		d.run()
	}
	return remap.Ticket(t), nil
}

// Resume is never asked for: a rehearsal ends when its breaker opens.
func (j drillJournal) Resume([]metadata.Entry) (remap.Ticket, error) {
	return 0, remap.ErrNotTripped
}
