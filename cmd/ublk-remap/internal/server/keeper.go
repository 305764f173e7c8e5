package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/metadata"
	"ublkremap/remap"
)

// errEnded is returned to those who ask a keeper that has ended. To them it is as
// if they had come a moment later, when nobody listens.
var errEnded = fmt.Errorf("%w any more: it is stopping", control.ErrNotRunning)

// keeper is the goroutine that owns the Arbiter and the Committer. Whoever
// wants something of them puts a message into a mailbox and kicks, or calls.
type keeper struct {
	log     zerolog.Logger // for what can come in floods
	alerts  zerolog.Logger
	name    string // of the device
	shared  *remap.Shared
	arbiter *remap.Arbiter
	com     *metadata.Committer
	workers *workers
	devices []*blockdev.Device
	sizes   []int64 // of the devices when they joined the set: what must be there

	boxes  []*mailbox              // from the queues
	queues []atomic.Pointer[queue] // nil until the queue has begun
	kicked chan struct{}
	calls  chan func()
	quit   chan struct{}
	ended  chan struct{}
	once   sync.Once

	flushErrors atomic.Uint64 // of flushes of the workers

	// The rest belongs to the goroutine.
	wake     []bool                                      // queues that were sent something
	own      map[metadata.Ticket]chan<- metadata.Outcome // not the Arbiter's
	moves    map[uint64]chan<- remap.MoveResult
	lastMove uint64
	told     remap.Counts // what was last logged
	toldAt   time.Time
	telling  bool // a timer will kick
	// again is when mirrors that could not be written are tried again, however few
	// changes come; 0: all are well, and no timer runs.
	again, againFirst time.Duration
	waiting           bool // the timer runs
	// Scratch, and what was last logged.
	mirrors, mirrorsTold []metadata.MirrorStatus
}

var (
	_ remap.ArbiterDriver = (*keeper)(nil)
	_ metadata.Source     = (*keeper)(nil)
)

// relocationBuffer is what relocations copy through, in bytes.
const relocationBuffer = 2 * remap.MoveBatch * metadata.UnitSize

// newKeeper binds an Arbiter and a Committer for a device of at most that many
// queues of that depth, and starts the goroutine. calls are the system calls on the devices.
func newKeeper(log zerolog.Logger, img *metadata.Image, shared *remap.Shared,
	alloc *remap.Allocator, devices []*blockdev.Device,
	calls disks, queues, depth int, policy remap.Policy, session uint64,
) (*keeper, error) {
	k := &keeper{
		log:    log.Sample(&zerolog.BurstSampler{Burst: 10, Period: time.Minute}),
		alerts: log, name: img.Layout().Superblock().Name, shared: shared, devices: devices,
		boxes: make([]*mailbox, queues), queues: make([]atomic.Pointer[queue], queues),
		kicked: make(chan struct{}, 1), calls: make(chan func()), quit: make(chan struct{}),
		ended:      make(chan struct{}),
		againFirst: againFirst,
		wake:       make([]bool, queues), own: map[metadata.Ticket]chan<- metadata.Outcome{},
		moves: map[uint64]chan<- remap.MoveResult{},
	}
	for i := range k.boxes {
		k.boxes[i] = newMailbox(depth)
	}
	buffer, err := blockdev.Aligned(relocationBuffer)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(devices))
	for i, d := range devices {
		names[i] = d.Path()
	}
	for _, d := range img.Layout().Devices() {
		k.sizes = append(k.sizes, d.Size)
	}
	// From here on the two know each other through k.
	if k.com, err = metadata.NewCommitter(img, k, metadata.Options{Session: session}); err != nil {
		return nil, err
	}
	k.arbiter = remap.NewArbiter(remap.ArbiterConfig{Queues: queues, Depth: depth, Policy: policy,
		Buffer: buffer,
		Names:  names}, shared, alloc, journal{k}, k)
	k.told = shared.Map().Counts()
	k.mirrors = k.com.AppendMirrors(nil)
	k.mirrorsTold = make([]metadata.MirrorStatus, len(k.mirrors))
	for i := range k.mirrors {
		k.mirrorsTold[i] = k.mirrors[i]
		k.mirrorsTold[i].State = metadata.MirrorGood // what is not is told
	}
	k.workers = startWorkers(calls, shared, patienceOf(policy), k.kick)
	go k.run()
	return k, nil
}

// patienceOf is the Committer's share of a policy: resources are waited for as long as data does.
func patienceOf(p remap.Policy) metadata.RetryLimits {
	return metadata.RetryLimits{Resources: cmp.Or(p.ResourceFor, metadata.RetryResourcesFor),
		Path: metadata.RetryPathFor}
}

// enlist makes a queue known, before it gets its first request.
func (k *keeper) enlist(id int, q *queue) { k.queues[id].Store(q) }

// receive takes a message of a queue. It is called on the queue's thread.
func (k *keeper) receive(queue int, m *remap.Message) {
	k.boxes[queue].put(m)
	k.kick()
}

// kick makes the goroutine look at mailboxes and results.
func (k *keeper) kick() {
	select {
	case k.kicked <- struct{}{}:
	default: // it is about to look anyway
	}
}

// call runs f on the goroutine and returns when it has.
func (k *keeper) call(ctx context.Context, f func()) error {
	ran := make(chan struct{})
	select {
	case k.calls <- func() { f(); close(ran) }:
		<-ran
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-k.ended:
		return errEnded
	}
}

// run is the goroutine. It ends by stop.
func (k *keeper) run() {
	defer close(k.ended)
	for {
		select {
		case <-k.kicked:
		case f := <-k.calls:
			f()
		case <-k.quit:
			return
		}
		k.step()
	}
}

// stop ends the goroutine and the workers. What the Committer has under way is
// done, its results are not looked at. It must have been started; further calls
// do nothing.
func (k *keeper) stop() {
	k.once.Do(func() {
		close(k.quit)
		<-k.ended
		k.workers.stop()
	})
}

// step handles everything that has come.
func (k *keeper) step() {
	for _, box := range k.boxes {
		messages := box.take()
		for i := range messages {
			k.arbiter.Receive(&messages[i])
		}
	}
	k.pump()
	for _, d := range k.workers.take() {
		if d.unflushed {
			k.flushFailed(&d)
		}
		switch {
		case d.isTransf && d.unflushed:
			k.arbiter.TransferUnflushed(d.transfer)
		case d.isTransf:
			k.arbiter.Transferred(d.transfer, d.result())
		case d.errno != 0:
			// What comes of it is told by tellMirrors: a mirror has a hundred places to fail at.
			k.com.Done(d.op, d.failure(k.devices[d.device].Path()))
		default:
			k.com.Done(d.op, nil)
		}
		k.pump()
	}
	for i, sent := range k.wake {
		if sent {
			k.wake[i] = false
			if q := k.queues[i].Load(); q != nil {
				q.q.Wakeup()
			}
		}
	}
	k.tell()
	k.tellMirrors()
	k.tryAgain()
}

// flushFailed counts and logs that a flush of the keeper's failed.
func (k *keeper) flushFailed(d *done) {
	k.flushErrors.Add(1)
	k.log.Error().Str("device", k.devices[d.device].Path()).Err(d.errno).
		Msg("a flush failed: what was written since the last one that went well may be lost; the " +
			"next flush of a user is answered with an error")
}

// Mirrors that could not be written are tried again after a minute, then after twice
// that, and so on up to about an hour, unless enough changes come sooner.
const (
	againFirst = time.Minute
	againLast  = 64 * againFirst
)

// tryAgain starts the timer for mirrors that wait to be tried again. While all are well
// none runs.
func (k *keeper) tryAgain() {
	switch {
	case k.waiting:
		return
	case k.com.BackedOff():
	case k.again != 0 && k.com.Idle() && !k.com.Status().Suspended:
		k.again = 0
		return
	default:
		return // all is well, or it may end either way
	}
	k.waiting, k.again = true, min(max(2*k.again, k.againFirst), againLast)
	time.AfterFunc(k.again, func() {
		// step follows; an ended keeper writes nothing any more
		_ = k.call(context.Background(), func() {
			k.waiting = false
			k.com.RetryNow()
		})
	})
}

// tellMirrors logs that a mirror of the metadata is no longer good, or again, one
// line for each change: while one is rebuilt nothing is new.
func (k *keeper) tellMirrors() {
	k.mirrors = k.com.AppendMirrors(k.mirrors[:0])
	for i := range k.mirrors {
		now, before := &k.mirrors[i], &k.mirrorsTold[i]
		if now.State == metadata.MirrorRebuilding || now.State == before.State &&
			now.Start == before.Start && now.Device == before.Device {
			continue
		}
		event := k.alerts.Info()
		if now.State != metadata.MirrorGood {
			event = k.alerts.Warn().AnErr("reason", k.com.Status().Err)
		}
		event.Str("device", k.devices[now.Device].Path()).Int64("offset", now.Start).Str("state",
			string(now.State)).Msg("a mirror of the metadata is " + mirrorNews[now.State])
		*before = *now
	}
}

// mirrorNews is what the states of a mirror mean.
var mirrorNews = map[metadata.MirrorState]string{
	metadata.MirrorGood: "whole",
	metadata.MirrorWeak: "incomplete, and is being completed",
	metadata.MirrorStale: "behind, because it could not be written; it will be rebuilt, here or " +
		"elsewhere",
}

// tellEvery is how often changes of the table are logged at most.
const tellEvery = 2 * time.Second

// tell logs that the table has changed, in sums: a dying disk must not fill the
// log. The timer only runs when something is left to be told.
func (k *keeper) tell() {
	counts := k.shared.Map().Counts()
	if counts == k.told || k.telling {
		return
	}
	if since := time.Since(k.toldAt); since < tellEvery {
		k.telling = true
		time.AfterFunc(tellEvery-since, func() {
			// step follows; an ended keeper has told all
			_ = k.call(context.Background(), func() { k.telling = false })
		})
		return
	}
	k.told, k.toldAt = counts, time.Now()
	k.alerts.Info().Uint64("remaps", counts.Mapped).Uint64("pending", counts.Pending).Uint64("lost",
		counts.Lost).Msg("the remap table has changed")
}

// pump hands the Committer's writes to the workers and its outcomes to whom
// they concern. What was durable shows in the Map when it returns, as the
// Committer's checkpoints need.
func (k *keeper) pump() {
	for {
		for _, op := range k.com.Ops() {
			k.workers.submit(job{op: op.ID, read: op.Read, durable: op.FUA, device: op.Device,
				offset: op.Offset, data: op.Data})
		}
		results := k.com.Results()
		if len(results) == 0 {
			return
		}
		for _, r := range results {
			if to, mine := k.own[r.Ticket]; mine {
				delete(k.own, r.Ticket)
				to <- r.Outcome
				continue
			}
			if r.Outcome != metadata.OutcomeDurable {
				k.log.Error().Uint64("ticket", uint64(r.Ticket)).Msg("a change of the remap " +
					"table is not known to be durable")
			}
			k.arbiter.Committed(remap.Ticket(r.Ticket), r.Outcome == metadata.OutcomeDurable)
		}
		k.arbiter.Advance()
	}
}

// journal is the Committer as the Arbiter sees it.
type journal struct{ k *keeper }

// Commit hands entries to the Committer; step has its writes done.
func (j journal) Commit(entries []metadata.Entry) (remap.Ticket, error) {
	t, err := j.k.com.Commit(entries)
	if err != nil {
		j.k.log.Error().Err(err).Msg("a change of the remap table is refused")
	}
	return remap.Ticket(t), err
}

// Resume lets the Committer go on after an unknown outcome. The breaker also
// opens for other reasons; then a commit shows whether the disk takes one.
func (j journal) Resume(restate []metadata.Entry) (remap.Ticket, error) {
	ask := j.k.com.Commit
	if j.k.com.Status().Suspended {
		ask = j.k.com.Resume
	}
	t, err := ask(restate)
	return remap.Ticket(t), err
}

// Entries is the live table, for checkpoints.
func (k *keeper) Entries(cursor uint64, dst []metadata.Entry) (n int, next uint64, done bool) {
	return k.arbiter.Entries(cursor, dst)
}

// Send puts a message into a queue's mailbox.
func (k *keeper) Send(queue uint16, m *remap.Message) {
	q := k.queues[queue].Load()
	if q == nil {
		// The kernel gave fewer queues than were asked for: the others have
		// nothing in flight.
		if m.Kind == remap.MsgGrace {
			k.receive(int(queue), &remap.Message{Kind: remap.MsgGraceDone, Queue: queue,
				Generation: m.Generation})
		}
		return
	}
	q.in.put(m)
	k.wake[queue] = true
}

// Transfer hands a relocation's I/O to the workers.
func (k *keeper) Transfer(t *remap.Transfer) { k.workers.submit(jobOf(t)) }

// Now is the monotonic time.
func (k *keeper) Now() int64 { return monotonic() }

// WallClock is the time that entries carry.
func (k *keeper) WallClock() uint32 { return metadata.Seconds(time.Now()) }

// Moved tells whoever asked for a relocation how it ended.
func (k *keeper) Moved(r remap.MoveResult) {
	if to, ok := k.moves[r.ID]; ok {
		delete(k.moves, r.ID)
		to <- r
	}
}

// Missing says why a device is not there any more.
func (k *keeper) Missing(device uint8) string { return k.devices[device].Missing(k.sizes[device]) }

// Alert logs what an operator should know.
func (k *keeper) Alert(a remap.Alert) {
	event := k.alerts.Warn()
	if a == remap.AlertTripped || a == remap.AlertSpareFull {
		event = k.alerts.Error()
	}
	if a == remap.AlertTripped {
		st := k.arbiter.Status()
		event = event.Str("reason", st.Reason).Str("do", tripAction(st.Kind, k.name))
	}
	event.Msg(a.String())
}

// ticket asks the Committer for something and waits for its outcome.
func (k *keeper) ticket(ctx context.Context, ask func() (metadata.Ticket, error)) (metadata.Outcome,
	error) {
	outcome := make(chan metadata.Outcome, 1)
	var err error
	if callErr := k.call(ctx, func() {
		var t metadata.Ticket
		if t, err = ask(); err == nil {
			k.own[t] = outcome
		}
	}); callErr != nil {
		return 0, callErr
	}
	if err != nil {
		return 0, err
	}
	select {
	case o := <-outcome:
		return o, nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// open raises the epoch. Nothing may be served before it has returned nil.
func (k *keeper) open(ctx context.Context) error {
	o, err := k.ticket(ctx, func() (metadata.Ticket, error) { return k.com.Open(k.WallClock()) })
	if err == nil && o != metadata.OutcomeDurable {
		err = unix.EIO
		_ = k.call(ctx, func() {
			if e := k.com.Status().Err; e != nil {
				err = e
			}
		})
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrEpoch, err)
	}
	return nil
}

// finish writes a last checkpoint and waits until no write is under way.
func (k *keeper) finish(ctx context.Context) error {
	o, err := k.ticket(ctx, k.com.Checkpoint)
	if err == nil && o != metadata.OutcomeDurable {
		err = errors.New("the last checkpoint could not be written; the log holds what it would " +
			"have held")
	}
	return errors.Join(err, k.drain(ctx))
}

// sync flushes all devices, once.
func (k *keeper) sync() error {
	var errs []error
	for i, d := range k.devices {
		if errno := k.workers.sync(uint8(i)); errno != 0 {
			errs = append(errs, fmt.Errorf("%s: flush: %w", d.Path(), errno))
		}
	}
	return errors.Join(errs...)
}

// drain waits until the Committer has no write under way.
func (k *keeper) drain(ctx context.Context) error {
	for {
		idle := false
		if err := k.call(ctx, func() { idle = k.com.Idle() }); err != nil {
			return err
		}
		if idle {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Millisecond):
		}
	}
}

// move relocates blocks and waits for the end.
func (k *keeper) move(ctx context.Context, m remap.Move) (remap.MoveResult, error) {
	result := make(chan remap.MoveResult, 1)
	var err error
	if callErr := k.call(ctx, func() {
		k.lastMove++
		m.ID = k.lastMove
		// Registered first: a move with nothing to do ends within the call.
		k.moves[m.ID] = result
		if err = k.arbiter.Move(m); err != nil {
			delete(k.moves, m.ID)
		}
	}); callErr != nil {
		return remap.MoveResult{}, callErr
	}
	if err != nil {
		return remap.MoveResult{}, err
	}
	select {
	case r := <-result:
		return r, r.Err
	case <-ctx.Done():
		return remap.MoveResult{}, context.Cause(ctx)
	case <-k.ended:
		return remap.MoveResult{}, errEnded
	}
}
