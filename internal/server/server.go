package server

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/internal/coordinator"
	"ublkremap/internal/host"
	"ublkremap/internal/host/set"
	"ublkremap/internal/shell"
	"ublkremap/metadata"
	"ublkremap/remap"
	"ublkremap/ublk"
)

// Time limits. They allow for Linux 6.12: if a dead server had every tag in its hands, that kernel
// notices the death only after 30 seconds.
const (
	exclusiveWait   = 60 * time.Second // for a dead server's last I/O on the backing
	exclusiveBrief  = time.Second      // where no server died
	epochWait       = 60 * time.Second
	recoverWait     = 60 * time.Second
	stopWait        = 45 * time.Second
	finishWait      = 30 * time.Second
	deleteWait      = 15 * time.Second
	controlShutdown = 2 * time.Second
	// forcedWait replaces deleteWait where somebody is known to hold the device open.
	forcedWait = time.Second
)

// reservedRings is for a command that ends the device while others hang.
const reservedRings = 3

// server is one device being served.
type server struct {
	cfg  Config
	log  zerolog.Logger
	name string
	uuid string

	set    *set.Set
	owner  *control.Owner
	image  *metadata.Image
	epoch  uint64 // durable, and this server's own
	shared *remap.Shared
	alloc  *remap.Allocator
	keeper *keeper

	ctl     *ublk.Control
	device  *ublk.Device
	created bool // the device was made by this server
	record  *control.Record
	stale   []int // numbers of devices of this set that nobody waits for
	socket  *control.Server
	hangs   *hangWatch
	written *writtenWatch

	temperature temperature // of the backing
	took        time.Time   // when it began to serve the device
	every       int         // one request in so many is timed

	live    atomic.Bool
	inOrder bool // it ended without an error

	told   sync.Once  // that it stops
	stopMu sync.Mutex // one asks at a time
	// A signal is being handled; further signals ask for the same and are ignored.
	signalled atomic.Bool
	exclusive *os.File    // keeps others from the device while it is stopped
	forced    atomic.Bool // it is stopped although it may be in use
	endMu     sync.Mutex
	ending    ending
	stays     []string // tokens of upgrades that were given up: it does not leave for them

	demand   demand        // for memory
	outgrown chan struct{} // a request was larger than what stays of its buffer

	// One of them is closed when ending is decided.
	stopAsked, leaveAsked chan struct{}
}

// Run serves a device until it is stopped: by the control socket, by the end of ctx, or from
// outside. It returns nil after an orderly stop. If it returns an error before Ready was called, it
// leaves no device behind, except one of a dead server that existed already.
func Run(ctx context.Context, cfg Config) error {
	s := &server{cfg: cfg, log: cfg.Log, stopAsked: make(chan struct{}),
		leaveAsked: make(chan struct{}), outgrown: make(chan struct{}, 1)}
	err := s.run(ctx)
	s.inOrder = err == nil
	return errors.Join(err, s.release())
}

func (s *server) run(ctx context.Context) error {
	if s.cfg.Predecessor != 0 {
		if err := s.succeed(ctx); err != nil {
			return err
		}
	}
	dead, err := s.identify(ctx)
	if err != nil {
		return err
	}
	if err := s.openControl(); err != nil {
		return err
	}
	have, err := s.need(ctx)
	if err != nil {
		return err
	}
	waiting, err := s.waiting(ctx, dead)
	if err != nil {
		return err
	}
	died := dead != nil || waiting != nil || len(s.stale) > 0
	if err := s.open(ctx, dead, died); err != nil {
		return err
	}
	if err := s.older(waiting); err != nil {
		return err
	}
	if err := s.sameDevices(ctx, waiting); err != nil {
		return err
	}
	if err := s.sweep(ctx); err != nil {
		return err
	}
	s.prepareDisks(ctx, waiting)
	chosen := s.cfg.Queues != 0
	s.choose(waiting)
	if err := s.budget(waiting, have, chosen); err != nil {
		return fmt.Errorf("%s: %w", s.cfg.Backing, err)
	}
	harden(s.log, s.cfg.HugePages)
	if err := s.load(); err != nil {
		return err
	}
	prepareMemory(s.log, s.cfg.Queues)
	epoch, cancel := context.WithTimeout(ctx, epochWait)
	defer cancel()
	if err := s.keeper.open(epoch); err != nil {
		return err
	}
	if s.epoch, err = s.keeper.epochNow(epoch); err != nil {
		return err
	}
	if s.cfg.Opened != nil {
		s.cfg.Opened()
	}
	if err := s.attach(ctx, waiting); err != nil {
		return err
	}
	return s.serve(ctx)
}

// prepareDisks lets the caller set up the disks of a device that is not being recovered.
func (s *server) prepareDisks(ctx context.Context, waiting *ublk.DeviceInfo) {
	if waiting != nil || s.cfg.Disks == nil {
		return
	}
	for _, line := range s.cfg.Disks(ctx, s.name, s.paths()) {
		s.log.Info().Msg(line)
	}
}

// identify finds out which set the backing belongs to, and makes the set's name this server's own.
// It returns the record of a server that died, if there is one.
func (s *server) identify(ctx context.Context) (*control.Record, error) {
	err := s.knowSet(ctx)
	if err != nil {
		return nil, err
	}
	if err := control.MakeDir(); err != nil {
		return nil, err
	}
	if s.owner == nil {
		s.owner, err = s.own(ctx)
	}
	if errors.Is(err, control.ErrOwned) {
		return nil, s.owned()
	}
	if err != nil {
		return nil, err
	}
	if err := s.openLog(); err != nil {
		return nil, err
	}
	r, err := control.ReadRecord(s.name)
	switch {
	case errors.Is(err, control.ErrNotRunning):
		return nil, nil
	case err != nil:
		s.log.Warn().Err(err).Msg("the runtime record is of no use")
		return nil, nil
	case r.UUID != s.uuid:
		if _, err := s.deviceOf(ctx, r); err == nil {
			return nil, fmt.Errorf("%s: %w: another disk has the name %q and its device %s is "+
				"still there; stop it first",
				s.cfg.Backing, control.ErrRefused, s.name, r.Device)
		}
		return nil, nil
	}
	return r, nil
}

// knowSet finds out the name and the UUID of the set, if nobody has yet.
func (s *server) knowSet(ctx context.Context) error {
	if s.name != "" {
		return nil
	}
	if s.cfg.Known == nil {
		sb, err := set.Identify(ctx, s.cfg.Backing)
		if err != nil {
			return err
		}
		id := set.IdentityOf(sb)
		s.cfg.Known = &id
	}
	s.name, s.uuid = s.cfg.Known.Name, s.cfg.Known.UUID.String()
	return nil
}

// owned says who has the name that this server needs.
func (s *server) owned() error {
	r, err := control.ReadRecord(s.name)
	switch {
	case err != nil:
		return &host.ServedError{Text: fmt.Sprintf("%s: %v, or another disk of the name %q is, "+
			"by a server that starts or ends just now; try again, or see: ublk-remap list",
			s.cfg.Backing, host.ErrServed, s.name)}
	case r.UUID != s.uuid:
		return fmt.Errorf("%s: %w: its name %q is that of another disk, %s, which is served as "+
			"%s by process %d; of two with one name only one can be served: stop that first: %s",
			s.cfg.Backing, control.ErrRefused, s.name, r.Backing, r.Device, r.PID,
			shell.Command("stop", r.Name))
	}
	return fmt.Errorf("%s: %w as %s by process %d", s.cfg.Backing, host.ErrServed, r.Device, r.PID)
}

// openLog begins to log where others can read it, once.
func (s *server) openLog() (err error) {
	if s.cfg.Owned != nil {
		s.log, err = s.cfg.Owned(s.name)
		s.cfg.Owned = nil
	}
	return err
}

// need fails early if the kernel lacks what was asked for.
func (s *server) need(ctx context.Context) (ublk.Features, error) {
	have, err := s.ctl.Features(ctx)
	if err != nil {
		return have, err
	}
	want := ublk.FeatureRecovery | ublk.FeatureRecoveryReissue
	if s.cfg.ZeroCopy == ublk.Require {
		want |= ublk.FeatureAutoBufReg
	}
	if s.cfg.BatchIO == ublk.Require {
		want |= ublk.FeatureBatchIO
	}
	return have, have.Require(want)
}

// deviceOf asks the kernel for the device that a record names. The error is ErrNotFound if the
// device is gone, or if somebody else's device has the same number since.
func (s *server) deviceOf(ctx context.Context, r *control.Record) (ublk.DeviceInfo, error) {
	if err := s.openControl(); err != nil {
		return ublk.DeviceInfo{}, err
	}
	return host.DeviceOf(ctx, s.ctl, r)
}

// openControl opens the driver's control device, once.
func (s *server) openControl() (err error) {
	if s.ctl != nil {
		return nil
	}
	if s.ctl, err = ublk.OpenControl(); err != nil {
		return err
	}
	// What the end needs is present from the start.
	return s.ctl.Reserve(reservedRings)
}

// waiting returns the device of a dead server that waits for a recovery, or nil. It is the device
// that the record names or, if the record is lost, the one that carries the set's tag.
func (s *server) waiting(ctx context.Context, dead *control.Record) (*ublk.DeviceInfo, error) {
	info, err := s.recorded(ctx, dead)
	if err != nil {
		return nil, err
	}
	if info == nil {
		info, dead, err = s.unrecorded(ctx)
	} else {
		_, _, err = s.unrecorded(ctx, info.ID)
	}
	if info == nil || err != nil {
		return nil, err
	}
	switch {
	case s.cfg.ID != ublk.AnyID && s.cfg.ID != info.ID:
		return nil, fmt.Errorf("%w: it is %s; start it without --id, or stop it first", ErrRecovery,
			info.BlockPath())
	case s.cfg.ZeroCopy == ublk.Require && !info.ZeroCopy():
		return nil, fmt.Errorf("%w: %s was made without zero copy; start it without --zero-copy, "+
			"or stop it first", ErrRecovery, info.BlockPath())
	case s.cfg.ZeroCopy == ublk.Never && info.ZeroCopy():
		return nil, fmt.Errorf("%w: %s was made with zero copy; start it without --zero-copy, or "+
			"stop it first", ErrRecovery, info.BlockPath())
	case s.cfg.BatchIO == ublk.Require && !info.BatchIO():
		return nil, fmt.Errorf("%w: %s was made without batch I/O; start it without --batch-io, "+
			"or stop it first", ErrRecovery, info.BlockPath())
	case s.cfg.BatchIO == ublk.Never && info.BatchIO():
		return nil, fmt.Errorf("%w: %s was made with batch I/O; start it without --batch-io, or "+
			"stop it first", ErrRecovery, info.BlockPath())
	}
	if len(s.cfg.Spares) == 0 {
		s.cfg.Spares = dead.Spares
	}
	s.record = dead
	return info, nil
}

// recorded returns the device that a dead server's record names, or nil.
func (s *server) recorded(ctx context.Context, dead *control.Record) (*ublk.DeviceInfo, error) {
	if dead == nil {
		return nil, nil
	}
	info, err := s.deviceOf(ctx, dead)
	switch {
	case errors.Is(err, ublk.ErrNotFound):
		return nil, dead.Remove()
	case err != nil:
		return nil, err
	case info.State == ublk.StateDead:
		// The device never was live, or it was being stopped. Nobody waits for it.
		s.stale = append(s.stale, info.ID)
		return nil, nil
	}
	return &info, nil
}

// open opens the devices exclusively. After a crash that is possible only once the dead server's
// last I/O has ended, however long the disk takes for that.
func (s *server) open(ctx context.Context, dead *control.Record, died bool) error {
	wait := exclusiveBrief
	if died {
		wait = exclusiveWait
	}
	w := s.waiter()
	var err error
	for began := time.Now(); ; {
		s.set, err = set.Open(ctx, s.cfg.Backing, s.cfg.Spares,
			blockdev.Options{Wait: exclusiveBrief, Writers: true, NoteLoss: true})
		if !errors.Is(err, blockdev.ErrBusy) || blockdev.Lasting(err) {
			break
		}
		if !s.dies(ctx, dead) && time.Since(began) > wait {
			break
		}
		w.Say(func() string {
			if dead == nil {
				return "waiting for who has the disk: " + err.Error()
			}
			return host.LastIO(dead)
		})
	}
	if err != nil {
		return err
	}
	if got := s.set.Superblock.UUID.String(); got != s.uuid {
		return fmt.Errorf("%s: %w: another set was written to it meanwhile", s.cfg.Backing,
			control.ErrRefused)
	}
	return nil
}

// dies reports whether the server of a record is dead and has I/O under way. In that case the
// kernel has not released the server's end of the device.
func (s *server) dies(ctx context.Context, dead *control.Record) bool {
	if dead == nil || !host.Died(dead) {
		return false
	}
	served, err := ublk.Served(ctx, dead.ID)
	return err == nil && served
}

func (s *server) waiter() *host.Waiter { return &host.Waiter{Tell: s.cfg.Progress} }

// choose sets the properties of the device that the user did not choose. A device that waits keeps
// those that it was made with.
func (s *server) choose(waiting *ublk.DeviceInfo) {
	if waiting != nil {
		s.cfg.Queues, s.cfg.Depth, s.cfg.MaxIO = waiting.Queues, waiting.Depth, waiting.MaxIO
	}
	if s.cfg.Queues == 0 {
		s.cfg.Queues = min(runtime.NumCPU(), maxDefaultQueues)
	}
	if s.cfg.Depth == 0 {
		s.cfg.Depth = ublk.DefaultDepth
	}
	if s.cfg.MaxIO == 0 {
		s.cfg.MaxIO = ublk.DefaultMaxIO
	}
}

// load reads the metadata and builds the machines over it.
func (s *server) load() error {
	var err error
	if s.image, err = metadata.Load(s.set.Metadata()); err != nil {
		return fmt.Errorf("%s: %w", s.cfg.Backing, err)
	}
	layout := s.image.Layout()
	for _, d := range s.set.Devices {
		if b := d.Geometry().LogicalBlock; b > layout.BlockSize() {
			return fmt.Errorf("%s: %w: %w: it has blocks of %d bytes now, the set was made with %d",
				d.Path(), control.ErrRefused, blockdev.ErrAlignment, b, layout.BlockSize())
		}
	}
	restored, err := remap.Restore(layout, s.image.Replay)
	if err != nil {
		return fmt.Errorf("%s: %w", s.cfg.Backing, err)
	}
	geo := restored.Geometry
	geo.PhysicalBlock = max(geo.PhysicalBlock, physicalBlock(s.set.Devices))
	for i, d := range s.set.Devices {
		geo.NoFUA[i] = !d.Geometry().FUA
	}
	s.temperature.meter = blockdev.FindThermometer(s.set.Devices[0].Path())
	s.shared, s.alloc = remap.NewShared(geo, restored.Map), restored.Allocator
	s.inheritUntold()
	var session [8]byte
	if _, err := rand.Read(session[:]); err != nil {
		return err
	}
	s.keeper, err = newKeeper(s.log, coordinator.Config{
		Image: s.image, Shared: s.shared, Allocator: s.alloc, Policy: s.cfg.Policy,
		Queues: s.cfg.Queues, Depth: s.cfg.Depth,
		InternalTags: coordinator.ScrubTags, Scrub: s.scrubConfig(),
		Committer: metadata.Options{Session: binary.LittleEndian.Uint64(session[:])},
		Events:    s.temperature.recorder(),
	}, s.set.Devices, descriptorsOf(s.set.Devices))
	return err
}

// attach makes the ublk device, or recovers the one that waits. The record is written before the
// device can be live: from that moment on a crash leaves something to recover.
func (s *server) attach(ctx context.Context, waiting *ublk.DeviceInfo) error {
	geo := s.shared.Geometry()
	size := int64(geo.Blocks) * int64(geo.BlockSize)
	if waiting == nil {
		device, err := ublk.Create(ctx, s.ctl, ublk.Config{
			ID: s.cfg.ID, Queues: s.cfg.Queues, Depth: s.cfg.Depth, MaxIO: s.cfg.MaxIO,
			ZeroCopy: s.cfg.ZeroCopy, BatchIO: s.cfg.BatchIO, Recovery: ublk.Require,
			Tag: host.TagOf(s.uuid), Params: params(s.set.Devices, geo, s.cfg.MaxIO),
		})
		if err != nil {
			return err
		}
		s.device, s.created = device, true
		if err := s.writeRecordOf(device.Info(), 0); err != nil {
			return s.abandon(err)
		}
		return nil
	}
	if size != int64(s.record.Blocks)*int64(s.record.BlockSize) ||
		geo.BlockSize != s.record.BlockSize {
		return fmt.Errorf("%w: it has %d blocks of %d bytes, the disk has %d of %d", ErrRecovery,
			s.record.Blocks, s.record.BlockSize, geo.Blocks, geo.BlockSize)
	}
	// The kernel may name no server (-1) by now; the record tells which one it was.
	previous := waiting.PID
	if previous <= 0 {
		previous = s.record.PID
	}
	if err := s.writeRecordOf(*waiting, previous); err != nil {
		return err
	}
	s.log.Info().Str("device", waiting.BlockPath()).Msg(
		"recovering the device of a server that died")
	limited, cancel := context.WithTimeout(ctx, recoverWait)
	defer cancel()
	device, err := ublk.Recover(limited, s.ctl, waiting.ID)
	if err != nil {
		return fmt.Errorf("%w %s: %w", ErrRecovery, waiting.BlockPath(), err)
	}
	s.device = device
	return nil
}

func (s *server) writeRecordOf(info ublk.DeviceInfo, previous int) error {
	geo := s.shared.Geometry()
	s.record = &control.Record{
		Name: s.name, UUID: s.uuid, ID: info.ID, Device: info.BlockPath(),
		Backing: s.set.Devices[0].Path(), Spares: []string{},
		PID: os.Getpid(), PIDNamespace: host.PIDNamespace(), PreviousPID: previous,
		Started: time.Now().UTC(), Queues: info.Queues, Depth: info.Depth, MaxIO: info.MaxIO,
		BlockSize: geo.BlockSize, Blocks: geo.Blocks, FlushUntold: s.shared.UnreportedFlush(),
		ZeroCopy: info.ZeroCopy(), BatchIO: info.BatchIO(), Recovery: info.Recoverable(),
		Epoch: s.epoch, Version: s.cfg.Version, RootStorage: s.cfg.RootStorage,
		Options: s.options(),
	}
	for _, d := range s.set.Devices[1:] {
		s.record.Spares = append(s.record.Spares, d.Path())
	}
	return s.record.Write()
}

// options are the settings for the record. A device that was recovered has some of its own.
func (s *server) options() map[string]string {
	if s.record == nil {
		return s.cfg.Options
	}
	all := maps.Clone(s.cfg.Options)
	for _, name := range s.cfg.KeptOptions {
		delete(all, name)
		if text, ok := s.record.Options[name]; ok {
			all[name] = text
		}
	}
	return all
}

// warnOfEndMarks logs what other tools find of the data on the backing.
func (s *server) warnOfEndMarks() {
	if found := set.EndMarks(s.set.Devices[0], s.set.Superblock); found != "" {
		s.log.Warn().Str("device", s.set.Devices[0].Path()).Str("do", set.EndMarksDo).Msg(found)
	}
}

// warnOfBatchIO logs the known problems of a device with batch I/O.
func (s *server) warnOfBatchIO() {
	v, err := ublk.RunningKernel()
	if err != nil || !s.info().BatchIO() {
		return
	}
	if bad, known := ublk.KnownBadBatchIO(v); known {
		s.log.Warn().Stringer("kernel", v).Str("do", bad.Advice).Msg(bad.Problem)
	}
}

// info is what the kernel knows of the device.
func (s *server) info() ublk.DeviceInfo { return s.device.Info() }

// serve runs the device until it is stopped.
func (s *server) serve(ctx context.Context) error {
	s.took, s.every = time.Now().UTC(), timedOneIn()
	var err error
	if s.socket, err = control.Serve(s.name, s); err != nil {
		return s.abandon(err)
	}
	t := &target{keeper: s.keeper, shared: s.shared, policy: s.cfg.Policy, devices: s.set.Devices,
		every: s.every}
	s.demand.queues = s.info().Queues // the kernel can have given fewer
	ran := make(chan error, 1)
	go func() {
		ran <- s.device.Run(context.WithoutCancel(ctx), t, ublk.RunOptions{
			IOFlusher: canFlush(), Poll: s.cfg.Poll, HugePages: s.cfg.HugePages,
			Stay: s.demand.stay(), Outgrown: s.outgrew, WriteLimit: s.cfg.WriteLimit,
		})
	}()
	select {
	case err := <-ran:
		if err == nil {
			err = errors.New("the device was stopped while it started")
		}
		return s.abandon(err)
	case <-s.device.Ready():
	}
	end := make(chan struct{})
	defer close(end)
	s.becomeLive(end)
	return s.untilEnd(ctx, ran)
}

// becomeLive does what must be done once requests come, until end is closed.
func (s *server) becomeLive(end <-chan struct{}) {
	s.hangs = s.watchHangs()
	s.written = watchWritten(filepath.Base(s.info().BlockPath()))
	if !s.created {
		s.written.tell(filepath.Base(s.info().BlockPath())) // written to without a server, perhaps
	}
	if s.cfg.Alive != nil {
		go s.watchLife(end)
	}
	s.live.Store(true)
	s.toldInPerson()
	settling.Go(churnHeap)
	settling.Add(1)
	filled := make(chan struct{})
	go func() {
		s.fillBuffers()
		close(filled)
		settling.Done()
		s.tendRoom(end)
	}()
	select {
	case <-filled: // before users send requests that take long, see slow
	case <-time.After(fillWait):
	}
	s.log.Info().Str("device", s.info().BlockPath()).Str("backing", s.record.Backing).
		Bool("zero_copy", s.info().ZeroCopy()).Bool("batch_io", s.info().BatchIO()).Int("queues",
		s.info().Queues).Msg("live")
	s.noteStart()
	go s.watchEvents(end)
	s.warnOfBatchIO()
	s.warnOfEndMarks()
	if s.cfg.Ready != nil {
		s.cfg.Ready(s.info().BlockPath())
	}
}

// untilEnd waits until the queues have ended. It asks them to end when somebody asks for it.
func (s *server) untilEnd(ctx context.Context, ran <-chan error) error {
	signals, stop := s.signals(ctx)
	stopAsked, leaveAsked := s.stopAsked, s.leaveAsked
	for {
		select {
		case err := <-ran:
			if err != nil {
				// A queue failed. Its requests wait in the kernel, and the record tells the next
				// start where.
				return fmt.Errorf("%s: %w; start it again to recover", s.info().BlockPath(), err)
			}
			return s.ended()
		case sig := <-signals:
			go s.bySignal(sig)
		case <-stop:
			stop = nil
			s.end(endStop)
		case <-stopAsked:
			stopAsked = nil
			s.stopDevice()
		case <-leaveAsked:
			leaveAsked = nil
			s.leaveDevice()
		}
	}
}

// stopDevice stops the device; Run returns once it is stopped. If a request hangs, the stop is
// tried again, because nothing else ends the device without losing the request.
func (s *server) stopDevice() {
	s.log.Info().Msg("stopping")
	s.tellStopping()
	go func() {
		for {
			ctx, cancel := context.WithTimeout(context.Background(), stopWait)
			err := s.device.Stop(ctx)
			cancel()
			if err == nil {
				return
			}
			s.log.Error().Err(err).Msg("the device does not stop; trying on")
			time.Sleep(time.Second)
		}
	}()
}

// abandon ends a start that failed. It removes a device that was made for this start. A device that
// was to be recovered stays for the next try.
func (s *server) abandon(err error) error {
	if !s.created {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopWait)
	defer cancel()
	return errors.Join(err, s.ctl.Delete(ctx, s.device.Info().ID), s.record.Remove())
}

// finish does what is left after the last request: checkpoint, flush, close and delete.
func (s *server) finish() error {
	s.tellStopping()
	s.keeper.note(metadata.Event{Kind: metadata.EventStop})
	err := errors.Join(s.writeBack(), s.letGo(), s.delete())
	s.log.Info().Msg("stopped")
	if err != nil {
		// The client that asked for the stop finds the error in the record.
		s.record.Error = err.Error()
		return errors.Join(err, s.record.Write())
	}
	return s.record.Remove()
}

// writeBack makes everything durable that was written, after the last request.
func (s *server) writeBack() error {
	stopped, err := s.keeper.finish(finishWait)
	if stopped.Metadata != nil {
		// Everything acknowledged is in the log; the next start replays it.
		s.log.Warn().Err(stopped.Metadata).Msg("no last checkpoint")
	}
	// No flush of a user comes after this that could report a failed one. A failed flush of the
	// last checkpoint is included.
	return errors.Join(err, stopped.Flush, s.untoldFlush())
}

// letGo ends the writers and gives the devices back, in this order. So everybody who still waits
// for an answer gets one, and nobody asks about closed devices. Also no write is under way to a
// closed descriptor, which may be another file by then.
func (s *server) letGo() error {
	if s.keeper != nil {
		s.keeper.stop()
	}
	s.closeSocket()
	var err error
	if s.set != nil {
		err = s.set.Close()
	}
	closeExclusive(s.exclusive)
	s.exclusive = nil
	return err
}

// delete removes the device. The device is stopped already; what can fail is that its number
// becomes free.
func (s *server) delete() error {
	wait := deleteWait
	if s.forced.Load() {
		wait = forcedWait
	}
	limited, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	err := s.ctl.Delete(limited, s.record.ID)
	if holders, held := heldBy(err); held && s.forced.Load() {
		// The user said force, so these holders are accepted.
		s.log.Warn().Str("device", s.record.Device).Str("held_by",
			fmt.Sprint(holders)).Msg("its number is free when nobody has it open any more")
		return nil
	}
	if errors.Is(err, ublk.ErrNotFound) {
		return nil
	}
	return err
}

// watchHangs watches the disks. It also watches the device itself, because its requests can wait
// for a file too.
func (s *server) watchHangs() *hangWatch {
	return watchHangs(s.keeper.askAges, append(s.paths(), s.info().BlockPath())...)
}

// paths returns the paths of the backing and of the spare devices.
func (s *server) paths() []string {
	var all []string
	for _, d := range s.set.Devices {
		all = append(all, d.Path())
	}
	return all
}

func (s *server) closeSocket() {
	if s.socket == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), controlShutdown)
	defer cancel()
	// A client that does not hang up is not a failure of the server.
	_ = s.socket.Close(ctx)
	s.socket = nil
}

// release gives back what is left, in any state.
func (s *server) release() error {
	errs := []error{s.letGo()}
	if s.ctl != nil {
		errs = append(errs, s.ctl.Close())
	}
	s.hangs.close()
	s.written.close()
	if s.owner != nil {
		errs = append(errs, s.letNameGo())
	}
	return errors.Join(errs...)
}

// letNameGo releases the name. If nothing is left of the device, nothing is left of it in the
// runtime directory either. Only the log of a start or a stop that failed stays.
func (s *server) letNameGo() error {
	if _, err := control.ReadRecord(s.name); !errors.Is(err, control.ErrNotRunning) {
		return s.owner.Release()
	}
	return s.owner.Forget(s.inOrder)
}
