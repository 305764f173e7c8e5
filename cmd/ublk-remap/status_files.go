package main

import (
	"context"
	"time"

	"ublkremap/internal/control"
	"ublkremap/internal/files"
	"ublkremap/internal/shell"
)

const (
	// damageTime bounds how long status looks for damaged files without being asked to, on all
	// devices together.
	damageTime = 2 * time.Second
	// damageAsked is the bound for each device with --files.
	damageAsked = time.Minute
)

// damageLook looks for the files that are damaged, for status. It remembers what it found, because
// the status can be printed again and again.
type damageLook struct {
	asked bool                  // --files
	spent time.Duration         // on the status that is printed now
	last  map[string]damageSeen // by name
}

type damageSeen struct {
	pending, lost uint64
	damage        *control.Damage
}

// of returns what the pending and lost blocks of a device come to, and nil if there are none. It
// returns in time, also if a disk does not: then nothing is known, and Complete is not set.
func (l *damageLook) of(ctx context.Context, s *control.Status) *control.Damage {
	idle := s.WaitingSince == nil && s.Requests.SlowSince == nil
	if s.Pending+s.Lost == 0 || s.ServerPID == 0 || s.State != control.StateLive &&
		s.State != control.StateDegraded {
		return nil
	}
	if seen, ok := l.last[s.Name]; ok && seen.pending == s.Pending && seen.lost == s.Lost {
		return seen.damage
	}
	d := &control.Damage{Paths: []string{}}
	limit := damageTime - l.spent
	if l.asked {
		limit = damageAsked
	}
	if idle && limit > 0 {
		start := time.Now()
		defer func() { l.spent += time.Since(start) }()
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		found := make(chan *control.Damage, 1)
		go func() { found <- lookForDamage(ctx, s) }()
		select {
		case d = <-found:
		case <-time.After(limit + time.Second): // it hangs in the kernel
		}
	}
	if l.last == nil {
		l.last = map[string]damageSeen{}
	}
	l.last[s.Name] = damageSeen{s.Pending, s.Lost, d}
	return d
}

func lookForDamage(ctx context.Context, s *control.Status) *control.Damage {
	runs, err := wantedRuns(ctx, &control.Record{Name: s.Name, Device: s.Device}, nil,
		[]string{"pending", "lost"})
	if err != nil {
		return &control.Damage{Paths: []string{}}
	}
	found, err := files.Find(ctx, files.Device{Path: s.Device, BlockSize: int64(s.BlockSize)},
		runs)
	if err != nil {
		return &control.Damage{Paths: []string{}}
	}
	d := damageOf(found.Rows)
	d.Complete = !found.Incomplete
	return d
}

// damageStatus says in words what status found.
func damageStatus(s *control.Status) string {
	if s.Files.Complete {
		return damageText(s.Files)
	}
	return "which are damaged takes longer to find: " + shell.Command("files", s.Name,
		"--state", "pending,lost")
}
