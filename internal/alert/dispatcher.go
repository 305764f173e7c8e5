package alert

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"time"

	"ublkremap/internal/readable"
)

// Way brings messages to people. Send may take its time, and ends with ctx.
type Way interface {
	Name() string
	Send(ctx context.Context, m *Message) error
}

// NoticeWay takes each notice as it comes, without digests, and is not asked again if it fails.
type NoticeWay interface {
	Name() string
	Take(ctx context.Context, host string, n *Notice) error
}

// Checker is a way that knows without a message whether it can bring one. A check is quick, and
// asks nobody.
type Checker interface{ Check() error }

// errRefused is wrapped by the error of a Way that will not take this message however often it is
// tried.
var errRefused = errors.New("it is not tried again")

const (
	// firstTry and lastTry are how long a way that failed is left alone; it doubles from one to the
	// other.
	firstTry = 10 * time.Second
	lastTry  = time.Hour
	// maxUnsent bounds the messages of a way that wait for it. The oldest are dropped.
	maxUnsent = 100
	// maxNotices bounds the notices that wait for a NoticeWay.
	maxNotices = 1000
)

// Count is what a way has done.
type Count struct{ Sent, Failed, Dropped uint64 }

// Dispatcher has a queue for each way, so that none keeps another.
type Dispatcher struct {
	log  *slog.Logger
	host string

	mu     sync.Mutex
	queues map[string]*queue[*Message]
	takers map[string]*queue[*Notice]
}

// queue is what waits for a way.
type queue[T any] struct {
	name    string
	wake    chan struct{}
	most    int
	waiting []T // the first may be under way
	dropped bool
	failing bool
	count   Count
}

// NewDispatcher returns a Dispatcher for these ways. unsent is what they did not bring last time.
func NewDispatcher(host string, log *slog.Logger, ways []Way, takers []NoticeWay,
	unsent map[string][]*Message) *Dispatcher {
	d := &Dispatcher{log: log, host: host, queues: map[string]*queue[*Message]{},
		takers: map[string]*queue[*Notice]{}}
	for _, w := range ways {
		d.queues[w.Name()] = &queue[*Message]{name: w.Name(), wake: make(chan struct{}, 1),
			most: maxUnsent, waiting: unsent[w.Name()]}
	}
	for _, w := range takers {
		d.takers[w.Name()] = &queue[*Notice]{name: w.Name(), wake: make(chan struct{}, 1),
			most: maxNotices}
	}
	return d
}

// Run brings messages until ctx ends. It returns when all ways have ended.
func (d *Dispatcher) Run(ctx context.Context, ways []Way, takers []NoticeWay) {
	var running sync.WaitGroup
	for _, w := range ways {
		running.Go(func() {
			serve(ctx, d, d.queues[w.Name()], func(m *Message) error { return w.Send(ctx, m) })
		})
	}
	for _, w := range takers {
		running.Go(func() {
			serve(ctx, d, d.takers[w.Name()], func(n *Notice) error {
				if err := w.Take(ctx, d.host, n); err != nil {
					return errors.Join(err, errOnce)
				}
				return nil
			})
		})
	}
	running.Wait()
}

// errOnce marks the error of a NoticeWay.
var errOnce = errors.New("")

// Bring hands notices and messages to all ways. It does not wait.
func (d *Dispatcher) Bring(notices []*Notice, messages []*Message) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, q := range d.queues {
		add(d, q, messages)
	}
	for _, q := range d.takers {
		add(d, q, notices)
	}
}

// add has the lock of d.
func add[T any](d *Dispatcher, q *queue[T], all []T) {
	if len(all) == 0 {
		return
	}
	q.waiting = append(q.waiting, all...)
	if n := len(q.waiting) - q.most; n > 0 {
		// The first one may be under way.
		q.waiting = append(q.waiting[:1:1], q.waiting[1+n:]...)
		q.count.Dropped += uint64(n)
		if !q.dropped {
			d.log.Warn("alerts are dropped, because too many wait for this way", "way", q.name)
		}
		q.dropped = true
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// serve brings what waits in a queue, in its order.
func serve[T any](ctx context.Context, d *Dispatcher, q *queue[T], send func(T) error) {
	wait := firstTry
	for {
		d.mu.Lock()
		var next T
		some := len(q.waiting) > 0
		if some {
			next = q.waiting[0]
		}
		d.mu.Unlock()
		if !some {
			select {
			case <-ctx.Done():
				return
			case <-q.wake:
			}
			continue
		}
		err := send(next)
		if err != nil && ctx.Err() != nil {
			return
		}
		if d.sent(err, q.note(d, err)) {
			d.mu.Lock()
			q.waiting = q.waiting[1:]
			d.mu.Unlock()
			wait = firstTry
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, lastTry)
	}
}

// note counts what became of a try. It reports whether the way fails for the first time.
func (q *queue[T]) note(d *Dispatcher, err error) *queueNote {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := &queueNote{way: q.name, first: err != nil && !q.failing, again: err == nil && q.failing}
	q.failing = err != nil
	if err != nil {
		q.count.Failed++
	} else {
		q.count.Sent++
		q.dropped = false
	}
	return n
}

// queueNote is what there is to log of a try.
type queueNote struct {
	way          string
	first, again bool
}

// sent logs what became of a try: a way that fails once, and again when it works. It reports
// whether the message is done with.
func (d *Dispatcher) sent(err error, n *queueNote) bool {
	over := err == nil || errors.Is(err, errRefused) || errors.Is(err, errOnce)
	switch {
	case n.again:
		d.log.Info("alerts are brought by this way again", "way", n.way)
	case n.first && over:
		d.log.Warn("an alert was not brought by this way", "way", n.way, "error", outputLine(
			err.Error()))
	case n.first:
		d.log.Warn("alerts cannot be brought by this way, which is tried again", "way", n.way,
			"error", outputLine(err.Error()))
	}
	return over
}

// Unsent returns the messages that wait, by the name of their way.
func (d *Dispatcher) Unsent() map[string][]*Message {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := map[string][]*Message{}
	for name, q := range d.queues {
		if len(q.waiting) > 0 {
			all[name] = append([]*Message(nil), q.waiting...)
		}
	}
	return all
}

// Counts returns what each way has done.
func (d *Dispatcher) Counts() map[string]Count {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := map[string]Count{}
	for name, q := range d.queues {
		all[name] = q.count
	}
	for name, q := range d.takers {
		all[name] = q.count
	}
	return maps.Clone(all)
}

// Result is what became of a test of a way.
type Result struct {
	Way   string `json:"way"`
	Error string `json:"error"` // empty: it works
	// Note says why a way that works told nobody.
	Note string `json:"note,omitempty"`
}

// Test sends a message by each way at once, past the queues, and waits for what becomes of it.
func Test(ctx context.Context, ways []Way, takers []NoticeWay, host string) []Result {
	n := &Notice{Kind: TestKind.Name, Event: Raised, Time: time.Now(), Set: readable.Text(host),
		Text: readable.Text(say(TestKind.Summary, host, "")), Times: 1}
	n.Since = n.Time
	m := newMessage(host, n.Time, n)
	all := make([]Result, len(ways)+len(takers))
	var running sync.WaitGroup
	try := func(i int, name string, f func() error) {
		running.Go(func() {
			all[i].Way = name
			if err := f(); err != nil {
				all[i].Error = outputLine(err.Error())
			}
		})
	}
	for i, w := range ways {
		try(i, w.Name(), func() error { return w.Send(ctx, m) })
	}
	for i, w := range takers {
		if h, is := w.(*Hooks); is {
			all[len(ways)+i].Note = h.none()
		}
		try(len(ways)+i, w.Name(), func() error { return w.Take(ctx, host, n) })
	}
	running.Wait()
	return all
}
