package logwrites

import (
	"fmt"
	"io"
	"math/rand/v2"
)

// Image is what a log is replayed onto.
type Image interface {
	io.WriterAt
	// Zero makes [off, off+n) read as zeroes.
	Zero(off, n int64) error
}

// Apply does to the image what entry i did to the device. Discarded blocks
// read as zeroes.
func (l *Log) Apply(img Image, i int) error {
	return l.apply(img, i, func(int64) bool { return true })
}

// ApplyTorn is Apply for an entry that was on its way when the power was cut,
// or lay in a volatile cache: each of its sectors was written or not.
func (l *Log) ApplyTorn(img Image, i int, rng *rand.Rand) error {
	return l.apply(img, i, func(int64) bool { return rng.IntN(2) == 0 })
}

// apply writes the sectors of entry i that keep approves of, given their offset
// within the entry, in runs as long as can be.
func (l *Log) apply(img Image, i int, keep func(off int64) bool) error {
	e := &l.Entries[i]
	data, err := l.Data(i)
	if err != nil {
		return err
	}
	write := func(from, to int64) error {
		if data == nil {
			return img.Zero(e.Off+from, to-from)
		}
		_, err := img.WriteAt(data[from:to], e.Off+from)
		return err
	}
	for off := int64(0); off < e.Len; {
		from := off
		for off < e.Len && keep(off) {
			off += l.SectorSize
		}
		if off > from {
			if err := write(from, off); err != nil {
				return fmt.Errorf("logwrites: apply entry %d, %s: %w", i, e, err)
			}
			if off == e.Len {
				break
			}
		}
		off += l.SectorSize // that keep refused
	}
	return nil
}

// ApplySome applies entries that lay in a volatile cache: each is lost, whole, or torn. They are
// applied in the order given. Of two writes to the same place the older one may survive alone, as
// in a real cache.
func (l *Log) ApplySome(img Image, entries []int, rng *rand.Rand) error {
	// The chances vary, so that sometimes most writes are lost, and sometimes most are whole. The
	// outcomes in between are many and alike.
	lost, torn := rng.IntN(101), rng.IntN(30)
	for _, i := range entries {
		var err error
		switch {
		case rng.IntN(100) < lost:
		case rng.IntN(100) < torn:
			err = l.ApplyTorn(img, i, rng)
		default:
			err = l.Apply(img, i)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Player replays a log onto one image from its beginning, never backwards.
type Player struct {
	log *Log
	img Image
	pos int
}

// NewPlayer returns a player that has applied nothing. The image holds what
// the device held when logging began.
func NewPlayer(l *Log, img Image) *Player { return &Player{log: l, img: img} }

// To applies all entries before index n that were not applied yet. It panics
// if the player is past n.
func (p *Player) To(n int) error {
	if n < p.pos || n > len(p.log.Entries) {
		panic(fmt.Sprintf("logwrites: replay to entry %d of %d from %d", n, len(p.log.Entries),
			p.pos))
	}
	for ; p.pos < n; p.pos++ {
		if err := p.log.Apply(p.img, p.pos); err != nil {
			return err
		}
	}
	return nil
}
