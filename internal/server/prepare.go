package server

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/internal/host"
	"ublkremap/internal/host/set"
	"ublkremap/internal/shell"
	"ublkremap/ublk"
)

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
