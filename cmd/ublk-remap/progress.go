package main

import (
	"fmt"
	"io"

	"ublkremap/cmd/ublk-remap/internal/badblocks"
	"ublkremap/cmd/ublk-remap/internal/progress"
	"ublkremap/internal/readable"
)

// progress begins to tell how far an operation is that may take long. The caller must call End.
func (a *app) progress(what string) *progress.Bar { return a.far.Start(readable.Text(what)) }

// printing begins to tell how much is printed, by the bytes that go to the result. It tells nothing
// where they go to the terminal themselves. The caller must call end.
func (a *app) printing() (out io.Writer, end func()) {
	if a.width() > 0 {
		return a.out, func() {}
	}
	bar := a.progress("printing")
	return &printed{a.out, bar}, bar.End
}

// printed is a writer of which the progress is told.
type printed struct {
	io.Writer
	bar *progress.Bar
}

// Write implements io.Writer.
func (p *printed) Write(b []byte) (int, error) {
	n, err := p.Writer.Write(b)
	p.bar.Add(int64(n))
	return n, err
}

// ownersFound is the progress of a search for the owners of blocks: it implements files.Progress.
type ownersFound struct{ *progress.Bar }

// Note implements files.Progress.
func (o ownersFound) Note(words string) { o.Bar.Note(readable.Text(words)) }

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
