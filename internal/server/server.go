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
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/internal/coordinator"
	"ublkremap/internal/host"
	"ublkremap/internal/host/set"
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
