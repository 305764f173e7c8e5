package coordinator

import (
	"fmt"
	"syscall"
	"time"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// Kind is what an IO does.
type Kind uint8

const (
	Read Kind = iota
	Write
	Flush
)

// IO is what a Driver carries out: one system call.
type IO struct {
	ID     uint64 // for Done
	Kind   Kind
	Device uint8 // index into Layout.Devices
	Offset int64 // bytes
	// Data is what a Read fills and what a Write writes. It is aligned as the Arbiter and the
	// Committer align theirs. It belongs to the Driver until Done. It must not change while it is
	// being written. A Flush has no Data.
	Data []byte
	// Durable says that a Flush follows this Write, or that this Flush is to make an earlier Write
	// durable.
	Durable bool
	// Transfer says that the IO is the Arbiter's. Otherwise it is the Committer's, or the last
	// flush of a stop.
	Transfer bool
}

// operationStep says what an operation waits for.
type operationStep uint8

const (
	stepFree     operationStep = iota // nothing: the place in the table is free
	stepMoving                        // its data, or the rest of it, is being read or written
	stepPause                         // it failed, and begins anew when it is due
	stepFlushing                      // what it wrote is being flushed
	// its flush was not carried out; the flush is asked for again when it is due
	stepFlushPause
	// other flushes, which were under way when its own flush ended
	stepSettling
	stepLastFlush      // a flush of a stop; only its result counts
	stepLastFlushPause // that flush was not carried out; it is asked for again when it is due
)

// operation is a read or a write of the Arbiter or of the Committer.
type operation struct {
	step operationStep

	op       metadata.OpID // of the Committer, or
	id       uint64        // of the Arbiter, if transfer, or
	lane     int           // of the flight recorder, if events
	events   bool
	drill    bool // of a rehearsal; id is its own
	transfer bool
	read     bool
	durable  bool // a flush follows the write
	device   uint8
	offset   int64
	data     []byte

	moved int // bytes of data
	retry metadata.Retry
	flush remap.Flushing
	due   int64 // monotonic ns, for the steps that wait for the time
}

const (
	// operationsAtFirst is more than can be under way: a step of the record, the checkpoint, the
	// superblocks and the refresh on each mirror, two transfers, and the flushes of a stop.
	operationsAtFirst = 32
	// settleEvery is the interval at which an operation checks whether other flushes have ended.
	settleEvery = int64(50 * time.Microsecond)
)

// begin begins an operation.
func (c *Coordinator) begin(o operation) {
	i := c.freeOperation()
	c.operations[i] = o
	c.start(i)
}

// freeOperation returns a free place in the table of operations.
func (c *Coordinator) freeOperation() int {
	for i := range c.operations {
		if c.operations[i].step == stepFree {
			return i
		}
	}
	c.operations = append(c.operations, operation{})
	return len(c.operations) - 1
}

// start reads or writes all of an operation's data, for the first time or once more. Flushes from
// before this start do not matter to it, whether they went well or not.
func (c *Coordinator) start(i int) {
	o := &c.operations[i]
	o.moved = 0
	o.flush = c.shared.Durable(o.device)
	c.goOn(i)
}

// goOn reads or writes the rest of an operation's data.
func (c *Coordinator) goOn(i int) {
	o := &c.operations[i]
	o.step = stepMoving
	kind := Write
	if o.read {
		kind = Read
	}
	c.io = IO{ID: uint64(i), Kind: kind, Device: o.device, Offset: o.offset + int64(o.moved),
		Data: o.data[o.moved:], Durable: o.durable, Transfer: o.transfer}
	c.drv.Issue(&c.io)
}

// sync flushes what an operation wrote.
//
// A write that must be durable and its flush are two system calls, for any device. With RWF_DSYNC
// the kernel would flush too, also where the device has FUA (generic_write_sync after
// blkdev_direct_write, block/fops.c), and the result of the write would be that of the flush. After
// a crash between the two calls the disk holds a write that was reported to nobody.
func (c *Coordinator) sync(i int) {
	o := &c.operations[i]
	o.step = stepFlushing
	o.flush.Begin()
	c.issueFlush(i)
}

func (c *Coordinator) issueFlush(i int) {
	o := &c.operations[i]
	c.io = IO{ID: uint64(i), Kind: Flush, Device: o.device, Durable: o.durable,
		Transfer: o.transfer}
	c.drv.Issue(&c.io)
}

// Done takes the result of an IO: the number of bytes moved, 0 for a flush that went well, or a
// negative errno. It must be called once for each IO.
func (c *Coordinator) Done(id uint64, res int32) {
	i := int(id)
	o := &c.operations[i]
	switch o.step {
	case stepMoving:
		c.dataMoved(i, res)
	case stepFlushing:
		o.flush.End(res)
		c.flushed(i, res)
	case stepLastFlush:
		c.lastFlushed(i, res)
	}
	c.pump()
}

// errNothing stands for a result of less than one block. The kernel answers so past the end of a
// device: a read with 0 bytes (blkdev_read_iter in block/fops.c), and a device that was removed has
// no length any more. A write there fails with ENOSPC. Both are errors of the path. EIO would be
// one of the medium, and its place would count as bad.
const errNothing = syscall.ENXIO

// dataMoved takes the result of a read or a write. A short result does not say why: the rest is
// tried by itself, and its result does. If a block was moved only in part, it counts as not moved.
func (c *Coordinator) dataMoved(i int, res int32) {
	o := &c.operations[i]
	if res >= 0 {
		if res -= res % c.blockSize; res == 0 {
			res = -int32(errNothing)
		}
	}
	if res < 0 {
		c.failed(i, res, stepPause)
		return
	}
	o.moved += int(res)
	switch {
	case o.moved < len(o.data):
		c.goOn(i)
	case o.durable:
		o.retry = metadata.Retry{} // the write is done: the flush has its own time
		c.sync(i)
	default:
		c.finish(i, 0, false)
	}
}

// failed retries an operation later, and pause says from which step. Or it ends the operation.
//
// Without a retry, a moment without memory would open the breaker, or a heal would fail because it
// gets no spare unit. The data path waits in such a moment. If the path of a transfer fails, the
// Arbiter decides.
func (c *Coordinator) failed(i int, res int32, pause operationStep) {
	o := &c.operations[i]
	p := c.limits
	if o.transfer || o.events || o.drill {
		p.Path = 0
	}
	now := c.drv.Now()
	if wait, retry := o.retry.Next(res, now, p); retry {
		o.step, o.due = pause, now+int64(wait)
		return
	}
	c.finish(i, res, false)
}

// flushed takes the result of a flush that makes a write durable.
//
// A flush that failed is not retried: the device may have dropped what it could not write, and then
// the next flush has nothing to write, and goes well. A flush that failed for lack of resources was
// not carried out.
func (c *Coordinator) flushed(i int, res int32) {
	switch {
	case res >= 0:
		c.settle(i)
	case remap.Classify(res) == remap.ClassResource:
		c.failed(i, res, stepFlushPause)
	default:
		c.finish(i, res, true)
	}
}

// settle ends an operation whose own flush went well. It waits until the results of the other
// flushes that were under way are known.
func (c *Coordinator) settle(i int) {
	o := &c.operations[i]
	switch {
	case !o.flush.Settled():
		o.step, o.due = stepSettling, c.drv.Now()+settleEvery
	case o.flush.Kept():
		c.finish(i, 0, false)
	default:
		c.finish(i, -int32(syscall.EIO), true)
	}
}

// finish tells the owner of an operation how it ended: well if res is 0. unflushed means that the
// data was written, and that its own flush, or another one meanwhile, failed.
func (c *Coordinator) finish(i int, res int32, unflushed bool) {
	o := c.operations[i]
	c.operations[i] = operation{}
	if unflushed {
		c.flushErrors++
		c.recordFlush(o.device, -res)
		c.drv.FlushFailed(o.device, -res)
	}
	switch {
	case o.drill:
		c.drillDone(&o, res, unflushed)
	case o.events:
		c.eventsWritten(o.lane, res, unflushed)
	case o.transfer && unflushed:
		c.arbiter.TransferUnflushed(o.id)
	case o.transfer && res < 0:
		c.arbiter.Transferred(o.id, res)
	case o.transfer:
		c.arbiter.Transferred(o.id, int32(len(o.data)))
	case res < 0:
		c.com.Done(o.op, c.failure(&o, syscall.Errno(-res), unflushed))
	default:
		c.com.Done(o.op, nil)
	}
}

// failure says why an operation of the Committer failed.
func (c *Coordinator) failure(o *operation, errno syscall.Errno, unflushed bool) error {
	what := "write"
	switch {
	case unflushed:
		return fmt.Errorf("%s: %w after a write of %d bytes at %d: %w", c.name(o.device),
			metadata.ErrFlush, len(o.data), o.offset, errno)
	case o.read:
		what = "read"
	case o.step == stepFlushing:
		what = "flush after a write"
	}
	return fmt.Errorf("%s: %s of %d bytes at %d: %w", c.name(o.device), what, len(o.data), o.offset,
		errno)
}

func (c *Coordinator) name(device uint8) string {
	if int(device) < len(c.names) {
		return c.names[device]
	}
	return fmt.Sprintf("device %d", device)
}

// nextOperation is when the first of the operations that wait for the time is due; 0: none waits.
func (c *Coordinator) nextOperation() (due int64) {
	for i := range c.operations {
		due = sooner(due, c.operations[i].due)
	}
	return due
}

// tickOperations continues operations that are due.
func (c *Coordinator) tickOperations(now int64) {
	for i := range c.operations {
		o := &c.operations[i]
		if o.due == 0 || o.due > now {
			continue
		}
		o.due = 0
		switch o.step {
		case stepPause:
			c.start(i)
		case stepFlushPause:
			c.sync(i)
		case stepSettling:
			c.settle(i)
		case stepLastFlushPause:
			c.lastFlush(i)
		}
	}
}
