package sim

import (
	"maps"
	"math/rand/v2"
	"slices"
)

const (
	sectorSize  = 512
	pageSize    = 4096
	pageSectors = pageSize / sectorSize
)

// disk is a simulated disk with a volatile write cache. What it answers to
// reads is the newest content. What a power cut leaves is decided per sector:
// the content that was last made durable, or any that was written since.
//
// A sector that was never written reads as junk that names the disk and the sector. So it is
// recognized wherever it appears.
type disk struct {
	index uint8
	size  int64
	pages []*page
	// sectors with unsynced content, in the order in which they became so; may hold stale entries
	dirty []int64
	seq   uint64 // counts writes to the cache

	missing int32 // not 0: the disk has vanished, and every operation answers this errno
	away    int64 // the step at which it last vanished
	// unheard is the step at which a read last failed for another reason than its medium by which
	// the Arbiter asked whether the disk is present.
	unheard int64
	rates   rates
	trims   bool // a discard leaves zeroes; else it does nothing
	lossy   bool // a flush that fails drops what it could not write
	noFUA   bool // a FUA write is what the kernel makes of it: a write and a flush, with one answer

	// Used by bugs only. No flush covers writes up to forgets. If late is set, no flush covers what
	// is being stored either.
	forgets, late uint64

	// readOps counts the reads that the disk has carried out.
	readOps uint64
	// Of sectors whose fault is that only the cache takes what is written (fault.cache): hot says
	// when, as a number of reads, the cache was last asked for what it holds of a sector. unsaved
	// are sectors whose newest content never reached the media.
	hot     map[int64]uint64
	unsaved map[int64]bool

	token *int // of the pages that are this disk's own; others are copied before they change
}

type page struct {
	owner *int
	data  [pageSize]byte
	cache [pageSectors]*cached
	bad   [pageSectors]*fault
	// spoiled: it has, or had, faults.
	spoiled bool
}

// cached is a sector whose newest content is not durable.
type cached struct {
	media    []byte // what is durable
	versions []version
}

type version struct {
	seq  uint64
	data []byte
}

func newDisk(index uint8, size int64) *disk {
	return &disk{index: index, size: size, pages: make([]*page, (size+pageSize-1)/pageSize),
		token: new(int)}
}

// fork returns a separate disk that holds the same, with the same faults. Pages are shared until
// either disk changes them.
func (d *disk) fork() *disk {
	c := *d
	c.pages, c.dirty = slices.Clone(d.pages), slices.Clone(d.dirty)
	c.hot, c.unsaved = maps.Clone(d.hot), maps.Clone(d.unsaved)
	d.token, c.token = new(int), new(int)
	var faults map[*fault]*fault
	for i, p := range c.pages {
		if p == nil || !p.spoiled {
			continue
		}
		// A fault counts the operations that it lets fail, so the fork needs its own.
		p = p.clone(c.token)
		for s, f := range p.bad {
			if f == nil {
				continue
			}
			if faults == nil {
				faults = map[*fault]*fault{}
			}
			if faults[f] == nil {
				own := *f
				faults[f] = &own
			}
			p.bad[s] = faults[f]
		}
		c.pages[i] = p
	}
	return &c
}

func (p *page) clone(owner *int) *page {
	c := *p
	c.owner = owner
	for s, x := range p.cache {
		if x != nil {
			c.cache[s] = &cached{media: x.media, versions: slices.Clone(x.versions)}
		}
	}
	return &c
}

// page returns the page of an offset, for a change. It makes the page if necessary.
func (d *disk) page(off int64) *page {
	i := off / pageSize
	p := d.pages[i]
	switch {
	case p == nil:
		p = &page{owner: d.token}
		for s := range int64(pageSectors) {
			putJunk(p.data[s*sectorSize:], d.index, i*pageSectors+s)
		}
		d.pages[i] = p
	case p.owner != d.token:
		p = p.clone(d.token)
		d.pages[i] = p
	}
	return p
}

// load copies content; off and len(buf) are whole sectors.
func (d *disk) load(off int64, buf []byte) {
	for len(buf) > 0 {
		n := min(int64(len(buf)), pageSize-off%pageSize)
		if p := d.pages[off/pageSize]; p != nil {
			copy(buf[:n], p.data[off%pageSize:])
		} else {
			for s := int64(0); s < n; s += sectorSize {
				clear(buf[s : s+sectorSize])
				putJunk(buf[s:], d.index, (off+s)/sectorSize)
			}
		}
		buf, off = buf[n:], off+n
	}
}

// store writes content; data nil stands for n zero bytes. durable: it is on
// the media at once.
func (d *disk) store(off int64, data []byte, n int64, durable bool) {
	d.seq++
	if data != nil && !durable {
		data = slices.Clone(data)
	}
	for at := int64(0); at < n; at += sectorSize {
		p := d.page(off + at)
		s := (off + at) % pageSize / sectorSize
		now := p.data[s*sectorSize:][:sectorSize]
		src := zeroSector[:]
		if data != nil {
			src = data[at:][:sectorSize]
		}
		if durable {
			p.cache[s] = nil
		} else {
			c := p.cache[s]
			if c == nil {
				c = &cached{media: slices.Clone(now)}
				p.cache[s] = c
				d.dirty = append(d.dirty, (off+at)/sectorSize)
			}
			c.versions = append(c.versions, version{d.seq + d.late, src})
		}
		copy(now, src)
		f := p.bad[s]
		if f != nil && f.heals {
			p.bad[s] = nil
		}
		d.saves((off+at)/sectorSize, f)
	}
}

// saves notes whether a sector that is written reaches the media.
func (d *disk) saves(sector int64, f *fault) {
	switch {
	case f != nil && f.cache > 0:
		if d.hot == nil {
			d.hot, d.unsaved = map[int64]uint64{}, map[int64]bool{}
		}
		d.hot[sector], d.unsaved[sector] = d.readOps, true
	case len(d.unsaved) > 0:
		delete(d.hot, sector)
		delete(d.unsaved, sector)
	}
}

// cached reports whether the cache still holds what was written to a sector that cannot save it.
func (d *disk) cached(sector int64, f *fault) bool {
	at, ok := d.hot[sector]
	return ok && d.readOps-at <= uint64(f.cache)
}

// reread keeps in the cache what was read.
func (d *disk) reread(off, n int64) {
	if len(d.hot) == 0 {
		return
	}
	for sector := off / sectorSize; sector < (off+n)/sectorSize; sector++ {
		if _, ok := d.hot[sector]; ok {
			d.hot[sector] = d.readOps
		}
	}
}

var zeroSector [sectorSize]byte

// inCache reports whether what a sector reads lies in the cache only.
func (d *disk) inCache(off int64) bool {
	p := d.pages[off/pageSize]
	return p != nil && p.cache[off%pageSize/sectorSize] != nil
}

// sync makes durable what was written up to seq.
func (d *disk) sync(seq uint64) {
	kept := d.dirty[:0]
	for _, sector := range d.dirty {
		p := d.page(sector * sectorSize)
		c := p.cache[sector%pageSectors]
		if c == nil {
			continue
		}
		if c.versions[len(c.versions)-1].seq <= d.forgets {
			kept = append(kept, sector)
			continue
		}
		n := 0
		for n < len(c.versions) && c.versions[n].seq <= seq {
			n++
		}
		if n == len(c.versions) {
			p.cache[sector%pageSectors] = nil
			continue
		}
		if n > 0 {
			c.media, c.versions = c.versions[n-1].data, c.versions[n:]
		}
		kept = append(kept, sector)
	}
	d.dirty = kept
}

// survival says what a power cut leaves of what was not durable.
type survival uint8

const (
	surviveSome survival = iota // any of the sectors, in any of their versions
	surviveNone
	surviveAll
)

// cut takes the power away and gives it back. Each unsynced sector keeps its durable content or any
// that was cached since.
func (d *disk) cut(rng *rand.Rand, how survival) {
	d.drop(rng, how, 0)
	d.missing, d.hot = 0, nil
	if d.unsaved != nil {
		d.hot = map[int64]uint64{}
	}
}

// drop ends the cache. One version of each unsynced sector is durable from then on, and the others
// are gone. If seq is not 0, versions after it stay in the cache.
func (d *disk) drop(rng *rand.Rand, how survival, seq uint64) {
	kept := d.dirty[:0]
	for _, sector := range d.dirty {
		p := d.page(sector * sectorSize)
		s := sector % pageSectors
		c := p.cache[s]
		if c == nil {
			continue
		}
		if seq != 0 && c.versions[len(c.versions)-1].seq > seq {
			kept = append(kept, sector)
			continue
		}
		p.cache[s] = nil
		i := len(c.versions)
		switch how {
		case surviveNone:
			i = 0
		case surviveSome:
			i = rng.IntN(len(c.versions) + 1)
		}
		content := c.media
		if i > 0 {
			content = c.versions[i-1].data
		}
		copy(p.data[s*sectorSize:][:sectorSize], content)
	}
	d.dirty = kept
}

// badAt returns the active fault of a sector, for reads or for writes.
func (d *disk) badAt(off int64, write bool) *fault {
	p := d.pages[off/pageSize]
	if p == nil {
		return nil
	}
	f := p.bad[off%pageSize/sectorSize]
	if f == nil || f.left == 0 || write && !f.write || !write && !f.read || f.wakes > d.readOps ||
		!write && f.cache > 0 && d.cached(off/sectorSize, f) {
		return nil
	}
	return f
}

// spoil gives the sectors of a range a fault.
func (d *disk) spoil(off, n int64, f *fault) {
	if f != nil && f.sleeps > 0 {
		f.wakes = d.readOps + f.sleeps
	}
	for at := off; at < off+n && at < d.size; at += sectorSize {
		p := d.page(at)
		p.bad[at%pageSize/sectorSize] = f
		if len(d.unsaved) > 0 {
			// Without the old fault the sector reads as what was written last.
			delete(d.hot, at/sectorSize)
			delete(d.unsaved, at/sectorSize)
		}
		p.spoiled = true
	}
}
