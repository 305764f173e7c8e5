package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"ublkremap/internal/control"
	"ublkremap/internal/coordinator"
	"ublkremap/metadata"
	"ublkremap/remap"
	"ublkremap/ublk"
)

const (
	// scrubQueue is the hardware queue whose thread reads for the scrub. Every device has it.
	scrubQueue = 0
	// scrubSize is how much one read of the scrub reads, in bytes.
	scrubSize = 256 << 10
)

// scrubReads are the reads of the scrub on their way between the keeper and a queue.
type scrubReads struct {
	mu    sync.Mutex
	asked []coordinator.ScrubRead // by the keeper

	// These belong to the queue's thread. Nobody needs what was read, so all reads share the
	// memory. It is made for the first one, and stays.
	sink  *ublk.Memory
	begun [coordinator.ScrubTags]coordinator.ScrubRead
}

// ReadForScrub hands a read of the scrub to the queue that reads for it.
func (k *keeper) ReadForScrub(r coordinator.ScrubRead) {
	q := k.queues[scrubQueue].Load()
	if q == nil { // it has not begun
		k.scrubEnded(&coordinator.ScrubResult{Tag: r.Tag, Ended: -int32(syscall.EAGAIN)})
		return
	}
	q.scrub.mu.Lock()
	q.scrub.asked = append(q.scrub.asked, r)
	q.scrub.mu.Unlock()
	k.wake[scrubQueue] = true
}

// scrubEnded takes the result of a read of the scrub. It may be called on any thread.
func (k *keeper) scrubEnded(r *coordinator.ScrubResult) {
	k.scrubMu.Lock()
	k.scrubs = append(k.scrubs, *r)
	k.scrubMu.Unlock()
	k.kick()
}

// takeScrubs hands the results that have come to the Coordinator.
func (k *keeper) takeScrubs() {
	k.scrubMu.Lock()
	results := k.scrubs
	k.scrubs = nil
	k.scrubMu.Unlock()
	for i := range results {
		k.coord.ScrubDone(&results[i])
	}
}

// beginScrubs begins the reads that the keeper has asked for. It is called on the queue's thread.
func (h *queue) beginScrubs() {
	h.scrub.mu.Lock()
	asked := h.scrub.asked
	h.scrub.asked = nil
	h.scrub.mu.Unlock()
	for _, r := range asked {
		if err := h.beginScrub(r); err != 0 {
			h.keeper.scrubEnded(&coordinator.ScrubResult{Tag: r.Tag, Ended: -int32(err)})
		}
	}
}

func (h *queue) beginScrub(r coordinator.ScrubRead) syscall.Errno {
	if h.q.Stopping() {
		return syscall.ECANCELED
	}
	if h.scrub.sink == nil {
		sink, err := h.q.NewMemory(min(scrubSize, h.q.MaxIO()))
		if err != nil {
			return syscall.ENOMEM
		}
		h.scrub.sink = sink
	}
	h.scrub.begun[r.Tag] = r
	geo := h.keeper.shared.Geometry()
	if err := h.engine.SubmitInternal(&remap.InternalRequest{Tag: uint16(h.q.Depth() + r.Tag),
		Cause: metadata.CauseScrub, Block: r.Block, Count: r.Count,
		Buffer: h.scrub.sink.Bytes()[:int(r.Count)*geo.BlockSize]}); err != nil {
		return syscall.EINVAL
	}
	return 0
}

// cancelScrubs ends the reads that are under way, because the queue ends.
func (h *queue) cancelScrubs() {
	for tag := range h.scrub.begun {
		h.engine.CancelInternal(uint16(h.q.Depth() + tag))
	}
}

// FinishInternal takes the result of a read of the scrub.
func (h *queue) FinishInternal(r *remap.InternalResult) {
	tag := int(r.Tag) - h.q.Depth()
	res := coordinator.ScrubResult{Tag: tag, Failed: r.Failed.Count(), Ended: r.Ended,
		NotNoted: r.NotNoted, Spares: slices.Clone(r.Spares), Slowest: r.Slowest,
		SlowBlock: r.SlowBlock, SlowCount: r.SlowCount}
	if r.Weak.Count() > 0 {
		res.Weak = r.Weak.AppendRuns(nil, h.scrub.begun[tag].Block)
	}
	h.keeper.scrubEnded(&res)
}

// scrubConfig is what the scrub needs to know of the disks.
func (s *server) scrubConfig() coordinator.ScrubConfig {
	return coordinator.ScrubConfig{
		MaxBlocks:  uint32(min(scrubSize, s.cfg.MaxIO) / s.shared.Geometry().BlockSize),
		Rotational: s.set.Devices[0].Geometry().Rotational}
}

// Scrub carries out a verb of the scrub, and returns the state after it.
func (s *server) Scrub(ctx context.Context, r control.ScrubRequest) (*control.ScrubStatus, error) {
	var st coordinator.ScrubStatus
	var refused error
	var slow []remap.Run
	if err := s.keeper.call(ctx, func() {
		refused = s.scrubVerb(r)
		st = s.keeper.coord.Scrub()
		if r.Slow {
			slow = s.keeper.coord.SlowBlocks(nil)
		}
	}); err != nil {
		return nil, err
	}
	switch {
	case errors.Is(refused, control.ErrInvalid):
		return nil, refused
	case refused != nil:
		return nil, fmt.Errorf("%w: %w", control.ErrRefused, refused)
	}
	status := scrubStatus(&st, s.shared.Geometry().BlockSize)
	for _, run := range slow {
		status.SlowBlocks = append(status.SlowBlocks, control.Range{Block: run.Start,
			Count: run.Count})
	}
	return status, nil
}

// scrubVerb runs on the keeper's goroutine.
func (s *server) scrubVerb(r control.ScrubRequest) error {
	c := s.keeper.coord
	switch r.Do {
	case control.ScrubShow:
		return nil
	case control.ScrubStart:
		if r.IntervalS > maxScrubInterval {
			return fmt.Errorf("%w: an interval of %d seconds: at most %d", control.ErrInvalid,
				r.IntervalS, uint64(maxScrubInterval))
		}
		return c.StartScrub(coordinator.ScrubOptions{Rate: r.Rate, Idle: r.Idle,
			RelocateSlow: r.RelocateSlow, NoRetest: r.NoRetest,
			Interval: time.Duration(r.IntervalS) * time.Second})
	case control.ScrubPause:
		return c.PauseScrub()
	case control.ScrubResume:
		return c.ResumeScrub()
	case control.ScrubStop:
		return c.StopScrub()
	}
	return fmt.Errorf("%w: scrub %q: no such verb", control.ErrInvalid, r.Do)
}

// maxScrubInterval is ten years, in seconds.
const maxScrubInterval = 10 * 366 * 24 * 3600

var scrubStates = [...]string{metadata.ScrubIdle: "idle", metadata.ScrubRunning: "running",
	metadata.ScrubPaused: "paused"}

// scrubOf is the scrub as every status shows it.
func scrubOf(st *coordinator.ScrubStatus) control.Scrub {
	s := control.Scrub{State: scrubStates[st.State], Position: st.Position, Total: st.Total,
		Rate: st.Speed}
	if st.Finished != 0 {
		t := time.Unix(int64(st.Finished), 0).UTC()
		s.LastFinished = &t
	}
	return s
}

func scrubStatus(st *coordinator.ScrubStatus, blockSize int) *control.ScrubStatus {
	s := &control.ScrubStatus{
		Scrub: scrubOf(st),
		Found: control.ScrubFound{Unreadable: st.Unreadable, Weak: st.Weak, Slow: st.Slow,
			SpareUnits: st.BadSpares, SlowSpareUnits: st.SlowSpares},
		Repaired: st.Repaired, Relocated: st.Relocated,
		RateLimit: uint64(st.Scrub.Rate) << 10, Idle: st.Idle, IntervalS: uint64(st.Interval),
		RelocateSlow: st.RelocateSlow, Waits: st.Waits, NoRetest: st.NoRetest,
		Retest: control.ScrubRetest{Running: st.Retest.Running, Tested: st.Retest.Found,
			Passed: st.Retest.Passed, Home: st.Retest.Home, Failed: st.Retest.Failed},
	}
	if st.Started != 0 {
		t := time.Unix(int64(st.Started), 0).UTC()
		s.Started = &t
	}
	if st.Speed > 0 {
		eta := (st.Total - st.Position) * uint64(blockSize) / st.Speed
		s.EtaS = &eta
	}
	return s
}
