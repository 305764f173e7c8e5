package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"ublkremap/internal/control"
	"ublkremap/internal/coordinator"
	"ublkremap/metadata"
	"ublkremap/remap"
	"ublkremap/ublk"
)

// Status collects what the control socket reports.
func (s *server) Status(ctx context.Context) (*control.Status, error) {
	var state coordinator.Status
	var scrub coordinator.ScrubStatus
	if err := s.keeper.call(ctx, func() {
		s.keeper.coord.LookForDevices()
		state = s.keeper.coord.Status()
		scrub = s.keeper.coord.Scrub()
	}); err != nil {
		return nil, err
	}
	st := s.figures(&state)
	st.Scrub = scrubOf(&scrub)
	live := s.live.Load()
	judge(st, live, state.Committer.Superblocks)
	if st.State == control.StateTripped {
		st.Action = tripAction(state.Arbiter.Kind, s.name)
	}
	if live {
		s.hangs.tell(st, time.Now())
		st.Requests = requestsOf(s.shared.Ages(), monotonic(), time.Now())
	}
	st.Requests.Most = s.info().Queues * s.info().Depth
	if s.endsBy() == endStop {
		st.State, st.Action = control.StateStopping, "wait for it"
		st.Reason = strings.TrimPrefix(st.Reason+"; it was asked to stop, and ends when what is "+
			"under way has come back", "; ")
	}
	return st, nil
}

// slowTold is how long a slow request is told of after it was seen last.
const slowTold = time.Minute

// requestsOf puts the ages of requests into a status. The times of Ages are those of the monotonic
// clock, which shows mono now.
func requestsOf(a remap.Ages, mono int64, now time.Time) control.Requests {
	r := control.Requests{UnderWay: a.UnderWay, Slow: a.Slow}
	if a.Oldest != 0 {
		since := now.Add(time.Duration(a.Oldest - mono)).UTC().Truncate(time.Second)
		r.SlowSince = &since
	}
	if a.Last != 0 && mono-a.Last <= int64(slowTold) {
		last := now.Add(time.Duration(a.Last - mono)).UTC().Truncate(time.Second)
		r.SlowLast = &last
	}
	return r
}

// figures is a status without a judgement of it.
func (s *server) figures(state *coordinator.Status) *control.Status {
	geo, m := s.shared.Geometry(), s.shared.Map()
	counts, c := m.Counts(), s.shared.Counters()
	arbiter, com := &state.Arbiter, &state.Committer
	info := s.info()
	st := &control.Status{
		Device: info.BlockPath(), ID: info.ID, Name: s.name, UUID: s.uuid,
		Backing: s.set.Devices[0].Path(), BlockSize: geo.BlockSize, SizeBlocks: geo.Blocks,
		Spare: control.Spare{Total: arbiter.Total, Used: arbiter.Used, Free: arbiter.Free,
			Devices: []control.SpareDevice{}},
		Remaps: counts.Mapped, Pending: counts.Pending, Lost: counts.Lost,
		Errors: control.Errors{
			Read: c.ReadErrors, Write: c.WriteErrors, Flush: c.FlushErrors +
				state.FlushErrors, Transport: c.TransportErrors,
			FailedFast: c.FailedFast, NotNoted: c.NotNoted,
		},
		Heals: control.Heals{Writes: c.HealedWrites, Reads: c.HealedReads, Failed: c.FailedHeals},
		IO: control.IO{
			Reads: c.Reads, Writes: c.Writes, Flushes: c.Flushes, Discards: c.Discards,
			ReadBytes: c.ReadBytes, WriteBytes: c.WriteBytes,
		},
		Metadata: control.Metadata{
			Version: metadata.Version, Sequence: com.Sequence, Mirrors: []control.Mirror{},
			LogUsed: com.LogUsed, LogSize: com.LogSize,
			BadSuperblocks: com.BadSuperblocks, Scrubbed: com.Refreshed,
		},
		Table: &control.Table{Entries: arbiter.Table.Entries, Max: arbiter.Table.Capacity,
			Growth: string(com.Growth)},
		Breaker: control.Breaker{State: "closed"},
		Features: control.Features{
			ZeroCopy: info.ZeroCopy(), AutoBufReg: info.Features.Has(ublk.FeatureAutoBufReg),
			BatchIO: info.BatchIO(), Recovery: info.Recoverable(),
		},
		ServerPID: os.Getpid(),
	}
	for _, d := range spareDevices(geo) {
		st.Spare.Devices = append(st.Spare.Devices,
			control.SpareDevice{Device: s.set.Devices[d.device].Path(), Total: d.units})
	}
	for _, mirror := range com.Mirrors {
		st.Metadata.Mirrors = append(st.Metadata.Mirrors, control.Mirror{Location: mirror.Location,
			State: string(mirror.State)})
	}
	if sb := s.image.Layout().Superblock(); sb.Created != 0 {
		created := time.Unix(int64(sb.Created), 0).UTC()
		st.Created = &created
	}
	if arbiter.Tripped {
		st.Breaker = control.Breaker{State: "open", Reason: arbiter.Reason,
			Kind: tripKind(arbiter.Kind)}
	}
	return st
}

type spareDevice struct {
	device uint8
	units  uint64
}

// spareDevices sums the spare regions up by device.
func spareDevices(geo *remap.Geometry) []spareDevice {
	var all []spareDevice
next:
	for _, e := range geo.Spares {
		for i := range all {
			if all[i].device == e.Device {
				all[i].units += uint64(e.Count)
				continue next
			}
		}
		all = append(all, spareDevice{e.Device, uint64(e.Count)})
	}
	return all
}

// Remaps lists the table as runs of blocks that are alike.
func (s *server) Remaps(ctx context.Context, f func(control.Remap) error) error {
	return Table(ctx, s.shared.Map(), s.shared.Geometry().Blocks, f)
}

// Table passes a map to f as runs of blocks that are alike: they have the same state, cause and
// time, and are adjacent in the spare region too. It keeps one run at a time, because a table can
// have millions. It ends early with f's error or ctx's.
func Table(ctx context.Context, m *remap.Map, blocks uint64, f func(control.Remap) error) error {
	per := uint64(m.BlocksPerUnit())
	var last control.Remap // Count 0: none
	var lastTime uint32
	flush := func() error {
		if last.Count == 0 {
			return nil
		}
		return f(last)
	}
	for at := uint64(0); at < blocks; {
		if err := ctx.Err(); err != nil {
			return err
		}
		run, ok := m.Next(at, blocks)
		if !ok {
			break
		}
		at = run.Start + run.Count
		state := stateName(run.Kind)
		if state == "" {
			continue // only busy
		}
		for b := run.Start; b < at; {
			n := min(at, (b/per+1)*per) - b
			info := m.Unit(b / per)
			r := control.Remap{Block: b, Count: n, State: state, Cause: info.Cause.String(),
				Time: clock(info.Time)}
			if run.Kind&remap.KindMapped != 0 {
				spare := run.Spare + (b - run.Start)
				r.Spare = &spare
			}
			if last.Count > 0 && lastTime == info.Time && continues(&last, &r) {
				last.Count += n
			} else {
				if err := flush(); err != nil {
					return err
				}
				last = r
			}
			lastTime = info.Time
			b += n
		}
	}
	return flush()
}

// stateName names a run's kind. It is empty if the disk holds nothing about it.
func stateName(k remap.Kind) string {
	switch {
	case k&remap.KindLost != 0:
		return metadata.StateLost.String()
	case k&remap.KindPending != 0:
		return metadata.StatePending.String()
	case k&remap.KindMapped != 0:
		return metadata.StateMapped.String()
	}
	return ""
}

// continues reports whether r starts where l ends and is like l.
func continues(l, r *control.Remap) bool {
	if l.Block+l.Count != r.Block || l.State != r.State || l.Cause != r.Cause ||
		(l.Spare == nil) != (r.Spare == nil) {
		return false
	}
	return l.Spare == nil || *l.Spare+l.Count == *r.Spare
}

func clock(seconds uint32) string { return time.Unix(int64(seconds), 0).UTC().Format(time.RFC3339) }

// Snapshot reads a part of the durable table, for a backup.
func (s *server) Snapshot(ctx context.Context, cursor uint64) (*control.Snapshot, error) {
	var snap metadata.Snapshot
	var err error
	if callErr := s.keeper.call(ctx,
		func() { snap, err = s.keeper.coord.Snapshot(cursor) }); callErr != nil {
		return nil, callErr
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", control.ErrFailed, err)
	}
	c := control.Snapshot(snap)
	return &c, nil
}

// Resume closes the breaker.
func (s *server) Resume(ctx context.Context) error {
	closed, err := answered(ctx, s.keeper, s.keeper.coord.Resume)
	switch {
	case errors.Is(err, errEnded) || ctx.Err() != nil:
		return err
	case err != nil:
		return fmt.Errorf("%w: %w", control.ErrFailed, err)
	case !closed:
		return fmt.Errorf("%w: the breaker stays open: the metadata cannot be written",
			control.ErrFailed)
	}
	return nil
}
