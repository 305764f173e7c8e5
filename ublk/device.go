package ublk

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// A Device is a ublk device that this process made or recovered, and serves with Run. It stays in
// the kernel until Delete, also after the end of the process.
type Device struct {
	ctl     *Control
	info    DeviceInfo
	params  Params
	recover bool // Run ends a recovery instead of starting the device

	ran      atomic.Bool
	stopping atomic.Bool
	leaving  atomic.Bool
	ready    chan struct{} // closed when live
	ended    chan struct{} // closed when Run has given everything back

	limit       int // of the size of requests, as Grant has set it; 0: it has not
	limitWriter func(path, text string) error

	mu     sync.Mutex
	queues []*Queue // while they run
}

// Create makes a device with ADD_DEV, checks what the kernel made of it and sets its
// parameters. The device is not live before Run. If the kernel lacks what cfg requires, the
// error is an *UnsupportedFeatureError and no device is left behind.
func Create(ctx context.Context, ctl *Control, cfg Config) (*Device, error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	have, err := ctl.Features(ctx)
	if err != nil {
		return nil, err
	}
	flags, err := cfg.features(have)
	if err != nil {
		return nil, err
	}
	info, err := ctl.Add(ctx, DeviceInfo{ID: cfg.ID, Queues: cfg.Queues, Depth: cfg.Depth,
		MaxIO: cfg.MaxIO, Features: flags, Tag: cfg.Tag})
	if err != nil {
		return nil, err
	}
	d := newDevice(ctl, info)
	if err := d.configure(ctx, cfg, flags); err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), DefaultTimeout)
		defer cancel()
		return nil, errors.Join(err, ctl.Delete(undo, info.ID))
	}
	return d, nil
}

func newDevice(ctl *Control, info DeviceInfo) *Device {
	return &Device{ctl: ctl, info: info, ready: make(chan struct{}), ended: make(chan struct{})}
}

// configure checks what ADD_DEV gave back: the kernel drops features that it does not know without
// an error.
func (d *Device) configure(ctx context.Context, cfg Config, flags Features) error {
	if err := d.info.Features.Require(flags); err != nil {
		return err
	}
	const changesData = FeatureNeedGetData | FeatureUserCopy | FeatureZoned | FeatureBatchIO |
		FeatureSharedMemoryCopy | FeatureIntegrity | FeatureDescriptorSize
	if odd := d.info.Features &^ flags & changesData; odd != 0 {
		return fmt.Errorf("ublk: the kernel turned on what was not asked for: %v", odd)
	}
	if d.info.Depth != cfg.Depth || d.info.Queues < 1 || d.info.Queues > cfg.Queues ||
		d.info.MaxIO > cfg.MaxIO {
		return fmt.Errorf("ublk: asked for %d queues of depth %d and requests of %d bytes, and "+
			"got %d of %d and %d",
			cfg.Queues, cfg.Depth, cfg.MaxIO, d.info.Queues, d.info.Depth, d.info.MaxIO)
	}
	if err := d.ctl.SetParams(ctx, d.info.ID, cfg.Params, d.info.MaxIO); err != nil {
		return err
	}
	var err error
	d.params, err = d.ctl.GetParams(ctx, d.info.ID)
	return err
}

// recoverPoll is how often a recovery that is refused as busy is asked for again.
const recoverPoll = time.Millisecond

// Recover recovers a device whose server died, or left it. While the kernel still sees the old
// server (on Linux 6.12 for 30 seconds, if that server owned every tag), Recover tries again until
// the context's deadline or DefaultTimeout; then it returns ErrBusy. The device keeps the features,
// queues, depth and parameters that it was made with: see Info and Params. Requests that the old
// server had not answered come again once Run has made the device live.
//
// The old server's last I/O may still be under way. A caller that must not meet it waits for its
// end before this call.
func Recover(ctx context.Context, ctl *Control, id int) (*Device, error) {
	info, err := ctl.Info(ctx, id)
	if err != nil {
		return nil, err
	}
	if !info.Features.Has(FeatureRecovery) {
		return nil, fmt.Errorf("ublk: device %d: %w", id, ErrNotRecoverable)
	}
	if err := servable(info); err != nil {
		return nil, err
	}
	params, err := ctl.GetParams(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := startRecovery(ctx, ctl, info); err != nil {
		return nil, err
	}
	// The state may have changed: the device is quiesced now and may have been live before.
	if info, err = ctl.Info(ctx, id); err != nil {
		return nil, err
	}
	d := newDevice(ctl, info)
	d.params, d.recover = params, true
	return d, nil
}

// servable refuses devices made for another kind of server than this package's.
func servable(info DeviceInfo) error {
	const foreign = FeatureNeedGetData | FeatureUserCopy | FeatureZoned |
		FeatureSharedMemoryCopy | FeatureIntegrity | FeatureDescriptorSize
	odd := info.Features & foreign
	if info.Features.Has(FeatureZeroCopy) && !info.Features.Has(FeatureAutoBufReg) {
		odd |= FeatureZeroCopy
	}
	if odd != 0 {
		return fmt.Errorf("ublk: device %d was made for another server, which used: %v", info.ID,
			odd)
	}
	return nil
}

func startRecovery(ctx context.Context, ctl *Control, info DeviceInfo) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	if !noticesClose {
		if err := fetchMissing(ctx, info); err != nil {
			return err
		}
	}
	tick := time.NewTicker(recoverPoll)
	defer tick.Stop()
	var busy error
	for {
		err := ctl.StartRecovery(ctx, info.ID)
		switch {
		case errors.Is(err, ErrBusy):
			busy = err
		case busy != nil && errors.Is(err, context.DeadlineExceeded):
			// The deadline ended a command, perhaps just before the context ends. The error
			// that the device was busy all the time says more.
			return fmt.Errorf("%w; %w", busy, context.DeadlineExceeded)
		default:
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; %w", busy, ctx.Err())
		case <-tick.C:
		}
	}
}

// Info is what the kernel gave at creation or recovery; its State and PID are those of that moment.
func (d *Device) Info() DeviceInfo { return d.info }

// Params are the parameters that the kernel keeps, which can be fewer than were asked for.
func (d *Device) Params() Params { return d.params }

// Ready is closed once the device is live: /dev/ublkbN is there.
func (d *Device) Ready() <-chan struct{} { return d.ready }

// Wakeup calls the handlers of all queues: Queue.Wakeup for each.
func (d *Device) Wakeup() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, q := range d.queues {
		q.Wakeup()
	}
}

// Stop stops a served device in order: STOP_DEV first, which waits until every request is
// answered; then the queues drain what their handlers have under way and end. It returns
// when Run has given everything back, or with an error at the context's deadline (or
// DefaultTimeout); it can be called again then. A device that Run was not called for is
// stopped as well.
func (d *Device) Stop(ctx context.Context) error {
	d.stopping.Store(true)
	d.Wakeup()
	if err := d.ctl.Stop(ctx, d.info.ID); err != nil {
		return err
	}
	return d.wait(ctx)
}

// Leave ends Run and leaves the device to another server, with Recover: requests that are
// not answered stay with the kernel and come to that server. Operations that handlers have
// under way are waited for, without time limit. A device without user recovery fails its
// requests after Leave.
func (d *Device) Leave(ctx context.Context) error {
	d.leaving.Store(true)
	d.Wakeup()
	return d.wait(ctx)
}

// wait waits until Run has ended, if it was ever called.
func (d *Device) wait(ctx context.Context) error {
	if !d.ran.Load() {
		return nil
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	select {
	case <-d.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("ublk: device %d: its queues have not ended: %w; %w", d.info.ID,
			ErrTimeout, ctx.Err())
	}
}

// Delete removes the device from the kernel, after Stop. See Control.Delete.
func (d *Device) Delete(ctx context.Context) error { return d.ctl.Delete(ctx, d.info.ID) }
