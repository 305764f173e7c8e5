package main

import (
	"fmt"

	"ublkremap/cmd/ublk-remap/internal/badblocks"
	"ublkremap/cmd/ublk-remap/internal/progress"
	"ublkremap/internal/readable"
)

// progress begins to tell how far an operation is that may take long. The caller must call End.
func (a *app) progress(what string) *progress.Bar { return a.far.Start(readable.Text(what)) }

// survey is the progress of trying places of a disk: it implements prepare.Progress.
type survey struct{ *progress.Bar }

// Expect implements prepare.Progress.
func (s survey) Expect(places [][]badblocks.Range) {
	total := int64(0)
	for _, list := range places {
		for _, r := range list {
			total += r.End - r.Start
		}
	}
	s.Expected(total)
}

// Add implements prepare.Progress.
func (s survey) Add(n int64, bad int) {
	if bad > 0 {
		s.Note(fmt.Sprintf("%s bad units", readable.Number(uint64(bad))))
	}
	s.Bar.Add(n)
}
