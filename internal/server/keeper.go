package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/internal/coordinator"
	"ublkremap/metadata"
	"ublkremap/remap"
)

// errEnded is returned to callers of a keeper that has ended. The effect is the same as if they had
// come a moment later, when nobody listens.
var errEnded = fmt.Errorf("%w any more: it is stopping", control.ErrNotRunning)

// keeper is the goroutine that owns the Coordinator. Others reach the Coordinator in two ways: they
// put a message into a mailbox and call kick, or they use call.
type keeper struct {
	report  report
	coord   *coordinator.Coordinator
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
	shared *remap.Shared

	scrubMu sync.Mutex
	scrubs  []coordinator.ScrubResult // that have come

	// The rest belongs to the goroutine.
	wake    []bool // queues that were sent something
	retests retests
	timer   *time.Timer
}

var _ coordinator.Driver = (*keeper)(nil)

// relocationBuffer is what relocations copy through, in bytes.
const relocationBuffer = 2 * remap.MoveBatch * metadata.UnitSize

// newKeeper binds a Coordinator to the devices of a set, and starts the goroutine. calls are the
// system calls on the devices. newKeeper sets those fields of cfg that depend on the devices.
func newKeeper(log zerolog.Logger, cfg coordinator.Config, devices []*blockdev.Device,
	calls disks) (*keeper, error) {
	layout := cfg.Image.Layout()
	k := &keeper{
		report: newReport(log, layout.Superblock().Name, cfg.Shared), devices: devices,
		boxes: make([]*mailbox, cfg.Queues), queues: make([]atomic.Pointer[queue], cfg.Queues),
		kicked: make(chan struct{}, 1), calls: make(chan func()), quit: make(chan struct{}),
		ended: make(chan struct{}), wake: make([]bool, cfg.Queues), shared: cfg.Shared,
	}
	for i := range k.boxes {
		k.boxes[i] = newMailbox(cfg.Depth)
	}
	var err error
	if cfg.Buffer, err = blockdev.Aligned(relocationBuffer); err != nil {
		return nil, err
	}
	for _, d := range devices {
		cfg.Names = append(cfg.Names, d.Path())
	}
	for _, d := range layout.Devices() {
		k.sizes = append(k.sizes, d.Size)
	}
	if k.coord, err = coordinator.New(cfg, k); err != nil {
		return nil, err
	}
	if err := k.coord.EventsOff(); err != nil {
		log.Warn().Err(err).Msg("events are kept in memory only until the next start: what the " +
			"flight recorder holds could not be read")
	}
	k.report.begin(k.coord)
	k.timer = time.NewTimer(time.Hour)
	k.timer.Stop()
	k.workers = startWorkers(calls, k.kick)
	go k.run()
	return k, nil
}

// enlist makes a queue known, before it gets its first request.
func (k *keeper) enlist(id int, q *queue) { k.queues[id].Store(q) }

// askAges has the queues look how long their requests are under way. A queue that has not looked
// since the last time is not asked again.
func (k *keeper) askAges() {
	for i := range k.queues {
		if q := k.queues[i].Load(); q != nil && q.asked.CompareAndSwap(false, true) {
			q.q.Wakeup()
		}
	}
}

// receive takes a message of a queue. It is called on the queue's thread.
func (k *keeper) receive(queue int, m *remap.Message) {
	k.boxes[queue].put(m)
	k.kick()
}

// kick makes the goroutine check mailboxes and results.
func (k *keeper) kick() {
	select {
	case k.kicked <- struct{}{}:
	default: // it will check anyway
	}
}

// call runs f on the goroutine and returns when f has returned.
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

// run is the goroutine. stop ends it.
func (k *keeper) run() {
	defer close(k.ended)
	defer k.timer.Stop()
	for {
		select {
		case <-k.kicked:
		case f := <-k.calls:
			f()
		case <-k.timer.C:
		case <-k.quit:
			return
		}
		k.step()
	}
}

// stop ends the goroutine and the workers. Operations under way are completed; their results are
// ignored. The keeper must have been started. Further calls do nothing.
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
			k.coord.Receive(&messages[i])
		}
	}
	k.coord.Step()
	for _, d := range k.workers.take() {
		k.coord.Done(d.id, d.res)
	}
	k.takeScrubs()
	now := k.Now()
	if due := k.due(); due != 0 && due <= now {
		k.coord.Tick()
		k.coord.TickScrub()
	}
	for i, sent := range k.wake {
		if sent {
			k.wake[i] = false
			if q := k.queues[i].Load(); q != nil {
				q.q.Wakeup()
			}
		}
	}
	k.report.changes(k.devices)
	if due := k.due(); due != 0 {
		k.timer.Reset(max(time.Duration(due-now), time.Microsecond))
	} else {
		k.timer.Stop()
	}
}

// due is when the goroutine must run even if nobody calls kick; 0: it need not run.
func (k *keeper) due() int64 {
	due := k.report.due
	for _, at := range []int64{k.coord.Deadline(), k.coord.MirrorsDue(), k.coord.ScrubDue(),
		k.coord.EventsDue()} {
		if due == 0 || at != 0 && at < due {
			due = at
		}
	}
	return due
}

// Send puts a message into a queue's mailbox.
func (k *keeper) Send(queue uint16, m *remap.Message) {
	q := k.queues[queue].Load()
	if q == nil {
		// The kernel gave fewer queues than were asked for. The missing ones have nothing in
		// flight.
		if m.Kind == remap.MsgGrace {
			k.receive(int(queue), &remap.Message{Kind: remap.MsgGraceDone, Queue: queue,
				Generation: m.Generation})
		}
		return
	}
	q.in.put(m)
	k.wake[queue] = true
}

// Issue hands an operation to the workers.
func (k *keeper) Issue(io *coordinator.IO) { k.workers.submit(*io) }

// Now is the monotonic time.
func (k *keeper) Now() int64 { return monotonic() }

// WallClock is the time that entries carry.
func (k *keeper) WallClock() uint32 { return metadata.Seconds(time.Now()) }

// Missing says why a device is missing.
func (k *keeper) Missing(device uint8) string { return k.devices[device].Missing(k.sizes[device]) }

// Alert logs what an operator should know.
func (k *keeper) Alert(a remap.Alert) { k.report.alert(a) }

// FlushFailed logs that one of the keeper's flushes failed.
func (k *keeper) FlushFailed(device uint8, errno int32) {
	k.report.flushFailed(k.devices[device].Path(), errno)
}

// NotDurable logs what became of a change of the remap table.
func (k *keeper) NotDurable(err error) { k.report.notDurable(err) }

// answered asks for something and waits for the answer.
func answered[T any](ctx context.Context, k *keeper, ask func(done func(T)) error) (answer T,
	err error) {
	answers := make(chan T, 1)
	var refused error
	if err := k.call(ctx, func() {
		refused = ask(func(answer T) { answers <- answer })
	}); err != nil {
		return answer, err
	}
	if refused != nil {
		return answer, refused
	}
	select {
	case answer = <-answers:
		return answer, nil
	case <-ctx.Done():
		return answer, context.Cause(ctx)
	case <-k.ended:
		return answer, errEnded
	}
}

// open raises the epoch. Nothing may be served before it has returned nil.
func (k *keeper) open(ctx context.Context) error {
	failed, err := answered(ctx, k, k.coord.Open)
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("%w: %w", ErrEpoch, err)
	}
	return nil
}

// finish writes a last checkpoint and flushes the devices; see coordinator.Stop.
func (k *keeper) finish(within time.Duration) (coordinator.Stopped, error) {
	return answered(context.Background(), k, func(done func(coordinator.Stopped)) error {
		k.coord.Stop(within, done)
		return nil
	})
}

// leave waits until no record is being written; see coordinator.Leave.
func (k *keeper) leave(within time.Duration) error {
	late, err := answered(context.Background(), k, func(done func(error)) error {
		k.coord.Leave(within, done)
		return nil
	})
	return errors.Join(err, late)
}

// move relocates blocks and waits for the end.
func (k *keeper) move(ctx context.Context, m remap.Move) (remap.MoveResult, error) {
	r, err := answered(ctx, k, func(done func(remap.MoveResult)) error {
		return k.coord.Move(m, done)
	})
	if err == nil {
		err = r.Err
	}
	return r, err
}
