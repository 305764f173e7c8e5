package sim

import (
	"errors"
	"math/rand/v2"
	"syscall"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// outage is what is wrong with the path while a start reads the disks. The path is away for some
// operations, and then for some more. Or one read in ten fails. The media are unchanged.
type outage struct {
	rng   *rand.Rand
	errno syscall.Errno
	n     int
	away  [2][2]int // operations from … to
	weak  bool
}

// flakyDevice is a device at the end of such a path.
type flakyDevice struct {
	metadata.Device
	o *outage
}

func (f flakyDevice) ReadAt(b []byte, off int64) (int, error) {
	if o := f.o; o.fails() {
		return 0, o.errno
	}
	return f.Device.ReadAt(b, off)
}

func (o *outage) fails() bool {
	o.n++
	if o.weak {
		return o.rng.IntN(10) == 0
	}
	for _, w := range o.away {
		if o.n > w[0] && o.n <= w[1] {
			return true
		}
	}
	return false
}

// newOutage draws an outage for this start, or none. It has its own stream of random numbers, so
// that a start with an outage continues like one without.
func (s *sim) newOutage() *outage {
	rng := rand.New(rand.NewPCG(s.seed^0x7061_7468,
		s.stats.Starts<<16|s.stats.Kills<<8|s.stats.Cuts))
	if s.scripted || rng.IntN(3) > 0 {
		return nil
	}
	o := &outage{rng: rng, errno: pick(rng, []syscall.Errno{syscall.ENOLINK, syscall.ETIMEDOUT,
		syscall.ENXIO, syscall.EIO, syscall.EIO, syscall.ENOMEM})}
	from := rng.IntN(40)
	to := from + 1 + rng.IntN(60)
	again := to + rng.IntN(40)
	o.away = [2][2]int{{from, to}, {again, again + 1 + rng.IntN(60)}}
	switch rng.IntN(8) {
	case 0:
		o.away[1][1] = 1 << 40 // until it is repaired
	case 1, 2:
		o.weak, o.errno = true, syscall.EIO
	}
	return o
}

// load reads the set, as a start does, over the path as it is. It may refuse. Then it is started
// again over a better path.
func (s *sim) load() (*metadata.Image, *remap.Restored) {
	devs := s.opts.Bug.loads(s, s.devices())
	over := devs
	o := s.newOutage()
	if o != nil {
		s.stats.Outages++
		over = make([]metadata.Device, len(devs))
		for i, d := range devs {
			over[i] = flakyDevice{d, o}
		}
	}
	for {
		img, err := metadata.Load(over)
		var restored *remap.Restored
		if err == nil {
			restored, err = remap.Restore(img.Layout(), img.Replay)
		}
		switch {
		case err == nil:
			if d := restored.Geometry.Density; d > 1 {
				s.failf("after a load the table does not fit a checkpoint of %d entries: "+
					"density %d",
					img.Layout().TableCapacity(), d)
			}
			return img, restored
		case o != nil && errors.Is(err, metadata.ErrPath):
			s.tracef("a start is refused: %v", err)
			s.stats.PathRefused++
			o, over = nil, devs
		default:
			s.failf("load: %v", err)
		}
	}
}
