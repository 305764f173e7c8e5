package coordinator

import (
	"cmp"
	"syscall"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// Driver carries out what a Coordinator asks for. No method may call back into the Coordinator
// before it returns, and no method may fail. Pointers are valid only during the call.
type Driver interface {
	// Send hands a message to the engine of a queue; messages to one queue stay in order.
	Send(queue uint16, m *remap.Message)
	// Issue begins a read, a write or a flush. Its result comes through Coordinator.Done.
	Issue(io *IO)
	// Now is the time in nanoseconds of a monotonic clock.
	Now() int64
	// WallClock is the time in seconds since 1970.
	WallClock() uint32
	// Missing says why a device is missing; see remap.ArbiterDriver.
	Missing(device uint8) string
	// Alert tells of something that an operator should know.
	Alert(a remap.Alert)
	// FlushFailed tells that an operation ended because a flush of its device failed: its own
	// flush, or another one meanwhile. What was written since the last successful flush may be
	// lost.
	FlushFailed(device uint8, errno int32)
	// NotDurable tells one of two things about a change of the remap table. With an error: the
	// change was refused. With nil: the change is not known to be durable.
	NotDurable(err error)
	// ReadForScrub begins a read of the scrub, by an internal request. Its result comes through
	// Coordinator.ScrubDone. It is called only if Config.Scrub allows reads.
	ReadForScrub(r ScrubRead)
}

// Committer is what a Coordinator needs of a metadata.Committer.
type Committer interface {
	Open(now uint32) (metadata.Ticket, error)
	Commit(entries []metadata.Entry) (metadata.Ticket, error)
	Resume(restate []metadata.Entry) (metadata.Ticket, error)
	Checkpoint() (metadata.Ticket, error)
	Ops() []metadata.Op
	Done(id metadata.OpID, err error)
	Results() []metadata.Result
	Idle() bool
	BackedOff() bool
	RetryNow()
	Status() metadata.Status
	AppendMirrors(dst []metadata.MirrorStatus) []metadata.MirrorStatus
	Snapshot(cursor uint64) (metadata.Snapshot, error)
	SetScrub(s metadata.Scrub)
	Verify(restart bool) (t metadata.Ticket, bytes int, ok bool)
}

// Grower is a Committer that can make room for a larger table.
type Grower interface {
	Grow()
	StopGrowing()
	Growth() metadata.Growth
	TableCapacity() uint64
}

// Config is what a Coordinator needs to know of its device.
type Config struct {
	Image     *metadata.Image
	Shared    *remap.Shared
	Allocator *remap.Allocator
	Policy    remap.Policy
	Queues    int
	Depth     int // of each queue
	// InternalTags is how many tags each queue has beside those; see remap.ArbiterConfig.
	InternalTags int
	// Buffer is what relocations copy through; see remap.ArbiterConfig.
	Buffer []byte
	// Names is what the devices are called in errors and reasons.
	Names []string
	// Committer tunes the Committer.
	Committer metadata.Options
	// Retry limits how long an operation is retried when it failed for another reason than its
	// medium. Zero fields have defaults: resources are tried for the policy's ResourceFor, a path
	// for metadata.RetryPathFor.
	Retry metadata.RetryLimits
	// Scrub is what the scrub may do. Its reads use the last ScrubTags of the InternalTags of a
	// queue.
	Scrub ScrubConfig
	// Events, if not nil, has a flight recorder kept, where the set has room for one.
	Events *Events
	// Wrap, if not nil, puts something between the Coordinator and its Committer. The simulator
	// uses it to look at what passes, and to plant bugs there.
	Wrap func(*metadata.Committer) Committer
}

// Coordinator binds an Arbiter and a Committer.
type Coordinator struct {
	drv     Driver
	shared  *remap.Shared
	names   []string
	devices int
	// block size of the set, in bytes; direct I/O uses this size
	blockSize int32
	arbiter   *remap.Arbiter
	com       Committer
	grower    Grower // com, if it can make room for a larger table

	limits      metadata.RetryLimits
	operations  []operation
	io          IO     // the IO being handed out; kept here so that its pointer makes no garbage
	flushErrors uint64 // of operations

	tickets  map[metadata.Ticket]func(metadata.Outcome) // tickets that are not the Arbiter's
	moves    map[uint64]func(remap.MoveResult)
	lastMove uint64
	resumes  []func(closed bool)
	retest   *retest // nil: none is under way
	// nextRetest is an operator's that begins once the scrub's has ended; nil: there is none.
	nextRetest *retest

	mirrors mirrorRetry
	scrub   scrub
	saving  saving
	end     end

	events   Events
	recorder *metadata.Recorder // nil: none
	// eventsEnded: the device has ended as far as the flight recorder is concerned.
	eventsEnded bool
	gathered    gathered
	drill       *drill // nil: none is under way
	closing     bool   // Stop or Leave was called
}

// New binds an Arbiter and a Committer for a device. Open comes next.
func New(cfg Config, d Driver) (*Coordinator, error) {
	c := &Coordinator{
		drv: d, shared: cfg.Shared, names: cfg.Names,
		devices:   len(cfg.Image.Layout().Devices()),
		blockSize: int32(cfg.Image.Layout().BlockSize()),
		limits: metadata.RetryLimits{
			Resources: cmp.Or(cfg.Retry.Resources, cfg.Policy.ResourceFor,
				metadata.RetryResourcesFor),
			Path: cmp.Or(cfg.Retry.Path, metadata.RetryPathFor),
		},
		operations: make([]operation, operationsAtFirst),
		tickets:    map[metadata.Ticket]func(metadata.Outcome){},
		moves:      map[uint64]func(remap.MoveResult){},
	}
	c.saving.queue = make([]remap.BadSpare, 0, saveMost)
	// From here on the Arbiter and the Committer know each other, through c.
	if cfg.Events != nil {
		c.events = *cfg.Events
		c.recorder = metadata.NewRecorder(cfg.Image)
		cfg.Committer.Recorder = c.recorder != nil
	}
	com, err := metadata.NewCommitter(cfg.Image, source{c}, cfg.Committer)
	if err != nil {
		return nil, err
	}
	c.com = com
	if cfg.Wrap != nil {
		c.com = cfg.Wrap(com)
	}
	c.grower, _ = c.com.(Grower)
	c.arbiter = remap.NewArbiter(remap.ArbiterConfig{Queues: cfg.Queues, Depth: cfg.Depth,
		InternalTags: cfg.InternalTags, Policy: cfg.Policy, Buffer: cfg.Buffer, Names: cfg.Names,
		Record: c.record},
		cfg.Shared, cfg.Allocator,
		journal{c}, driver{c})
	c.initScrub(cfg.Scrub, cfg.Image.Scrub())
	return c, nil
}

// Receive takes a message from an engine. The caller must call Step afterwards. Messages that come
// together are received together, so that their commits share a record.
func (c *Coordinator) Receive(m *remap.Message) { c.arbiter.Receive(m) }

// Step processes what Receive has brought. All other methods do so by themselves.
func (c *Coordinator) Step() { c.pump() }

// Deadline is when Tick must be called, on the clock of Driver.Now; 0: it need not be.
func (c *Coordinator) Deadline() int64 {
	return sooner(sooner(c.nextOperation(), c.drillDue()), sooner(c.end.due, c.retestDue()))
}

// MirrorsDue is when Tick must be called for mirrors that could not be written; 0: all mirrors are
// good. It is separate from Deadline, because no request waits for these mirrors.
func (c *Coordinator) MirrorsDue() int64 { return c.mirrors.due }

// sooner returns the earlier of two times; 0 means never.
func sooner(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// Tick continues what has waited for the time.
func (c *Coordinator) Tick() {
	now := c.drv.Now()
	c.tickOperations(now)
	c.tickMirrors(now)
	c.tickEnd(now)
	c.tickEvents(now)
	c.tickDrill(now)
	c.pump()
}

// pump hands the Committer's operations to the Driver, and the Committer's outcomes to their
// owners. When it returns, everything durable is visible in the Map; the Committer's checkpoints
// need that.
func (c *Coordinator) pump() {
	for {
		for _, op := range c.com.Ops() {
			c.begin(operation{op: op.ID, read: op.Read, durable: op.FUA, device: op.Device,
				offset: op.Offset, data: op.Data})
		}
		results := c.com.Results()
		if len(results) == 0 {
			if c.watchTable() || c.advanceRetest() {
				continue
			}
			break
		}
		for _, r := range results {
			c.ended(r)
		}
		c.arbiter.Advance()
	}
	c.watchMirrors()
	c.watchResumes()
	c.pumpEvents()
	c.stepMend()
	c.stepSaving()
	c.stepSpares()
	c.stepSlow()
	c.stepVerify()
	c.advanceEnd()
}

// ended takes the outcome of a ticket.
func (c *Coordinator) ended(r metadata.Result) {
	if done, own := c.tickets[r.Ticket]; own {
		delete(c.tickets, r.Ticket)
		done(r.Outcome)
		return
	}
	durable := r.Outcome == metadata.OutcomeDurable
	if !durable {
		c.drv.NotDurable(nil)
	}
	c.arbiter.Committed(remap.Ticket(r.Ticket), durable)
}

// Open raises the epoch. Nothing may be served before done was called with nil. After an error Open
// may be called again.
func (c *Coordinator) Open(done func(error)) error {
	t, err := c.com.Open(c.drv.WallClock())
	if err != nil {
		return err
	}
	c.tickets[t] = func(o metadata.Outcome) {
		var err error
		if o == metadata.OutcomeDurable {
			c.beginEvents()
		} else {
			if err = c.com.Status().Err; err == nil {
				err = syscall.EIO
			}
		}
		done(err)
	}
	c.pump()
	return nil
}

// Checkpoint writes a checkpoint, and tells whether it is durable.
func (c *Coordinator) Checkpoint(done func(durable bool)) error {
	t, err := c.com.Checkpoint()
	if err != nil {
		return err
	}
	c.tickets[t] = func(o metadata.Outcome) { done(o == metadata.OutcomeDurable) }
	c.pump()
	return nil
}

// Move relocates blocks, and tells how that ended. It may do so before it returns. The Coordinator
// sets the move's ID.
func (c *Coordinator) Move(m remap.Move, done func(remap.MoveResult)) error {
	c.lastMove++
	m.ID = c.lastMove
	c.moves[m.ID] = c.recordMove(m, done)
	if err := c.arbiter.Move(m); err != nil {
		delete(c.moves, m.ID)
		return err
	}
	c.pump()
	return nil
}

// Mark marks blocks pending, and tells how that ended. It may do so before it returns. See
// remap.Marking.
func (c *Coordinator) Mark(ranges []metadata.BlockRange, cause metadata.Cause,
	done func(remap.MarkResult)) error {
	err := c.arbiter.Mark(remap.Marking{Ranges: ranges, Cause: cause,
		Done: func(r remap.MarkResult) {
			c.gatherMark(ranges, &r)
			done(r)
		}})
	if err == nil {
		c.pump()
	}
	return err
}

// Resume closes the breaker, and tells whether it is closed. The breaker closes once everything
// that commits of unknown outcome were about is stated again, and durable. An error means that
// nothing was begun; see remap.Arbiter.Resume.
func (c *Coordinator) Resume(done func(closed bool)) error {
	if err := c.arbiter.Resume(); err != nil {
		return err
	}
	c.resumes = append(c.resumes, done)
	c.pump()
	return nil
}

// watchResumes reports to the callers of Resume whether the breaker is closed.
func (c *Coordinator) watchResumes() {
	if len(c.resumes) == 0 || c.shared.Tripped() && !c.com.Idle() {
		return
	}
	waiting := c.resumes
	c.resumes = nil
	for _, done := range waiting {
		done(!c.shared.Tripped())
	}
}

// Snapshot reads a part of the durable table, for a backup; see metadata.Committer.
func (c *Coordinator) Snapshot(cursor uint64) (metadata.Snapshot, error) {
	return c.com.Snapshot(cursor)
}

// Status is the state of a Coordinator.
type Status struct {
	Arbiter   remap.ArbiterStatus
	Committer metadata.Status
	// FlushErrors counts the operations that ended because a flush failed.
	FlushErrors uint64
}

// Status returns the state of both machines. It allocates.
func (c *Coordinator) Status() Status {
	return Status{Arbiter: c.arbiter.Status(), Committer: c.com.Status(),
		FlushErrors: c.flushErrors}
}

// LookForDevices notes which devices are missing. This is needed because a device that is not in
// use has not failed yet.
func (c *Coordinator) LookForDevices() {
	c.arbiter.CheckDevices()
	c.pump()
}

// AppendMirrors appends the states of the mirrors. It allocates nothing except for dst.
func (c *Coordinator) AppendMirrors(dst []metadata.MirrorStatus) []metadata.MirrorStatus {
	return c.com.AppendMirrors(dst)
}

// Idle reports that the Committer has nothing under way.
func (c *Coordinator) Idle() bool { return c.com.Idle() }

// source is the Arbiter as the Committer sees it.
type source struct{ c *Coordinator }

// Entries is the live table, for checkpoints.
func (s source) Entries(cursor uint64, dst []metadata.Entry) (n int, next uint64, done bool) {
	return s.c.arbiter.Entries(cursor, dst)
}

// journal is the Committer as the Arbiter sees it. pump carries out what the Arbiter asks for here.
type journal struct{ c *Coordinator }

func (j journal) Commit(entries []metadata.Entry) (remap.Ticket, error) {
	t, err := j.c.com.Commit(entries)
	if err != nil {
		j.c.drv.NotDurable(err)
	}
	return remap.Ticket(t), err
}

// Resume lets the Committer continue after an unknown outcome. The breaker also opens for other
// reasons. In that case a commit shows whether the disk accepts one.
func (j journal) Resume(restate []metadata.Entry) (remap.Ticket, error) {
	ask := j.c.com.Commit
	if j.c.com.Status().Suspended {
		ask = j.c.com.Resume
	}
	t, err := ask(restate)
	return remap.Ticket(t), err
}

// driver is the Coordinator as the Arbiter sees it.
type driver struct{ c *Coordinator }

func (d driver) Send(queue uint16, m *remap.Message) { d.c.drv.Send(queue, m) }
func (d driver) Now() int64                          { return d.c.drv.Now() }
func (d driver) WallClock() uint32                   { return d.c.drv.WallClock() }
func (d driver) Missing(device uint8) string         { return d.c.drv.Missing(device) }

// Alert passes on what an operator should know.
func (d driver) Alert(a remap.Alert) {
	d.c.recordAlert(a)
	d.c.drv.Alert(a)
}

// Transfer begins an operation of the Arbiter.
func (d driver) Transfer(t *remap.Transfer) {
	d.c.begin(operation{transfer: true, id: t.ID, read: t.Op == remap.OpRead, durable: t.FUA,
		device: t.Device, offset: t.Offset, data: t.Data})
}

// Moved tells the caller of Move how the move ended.
func (d driver) Moved(r remap.MoveResult) {
	if done, ok := d.c.moves[r.ID]; ok {
		delete(d.c.moves, r.ID)
		done(r)
	}
}
