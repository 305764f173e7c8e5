package blockdev

import (
	"io"
	"time"
)

const (
	// chunk is how much is read at once, if all of it can be read.
	chunk = 64 << 10
	// piece is how much is read at once if a chunk cannot be read whole.
	piece = 4 << 10
	// sectorSize is the least that is read.
	sectorSize = 512
	// slowRead is how long a read takes that the drive itself has repeated. Its range is not
	// tried again in parts.
	slowRead = time.Second
)

// prober reads small parts of a disk, and reads nothing twice: a place that cannot be read may take
// the drive seconds each time.
type prober struct {
	r      io.ReaderAt
	size   int64
	block  int64            // bytes of a block of the device, where that matters
	chunks map[int64][]byte // by number; nil for one that cannot be read whole
	pieces map[int64][]byte // of chunks that cannot be read whole
	slow   map[int64]bool   // pieces whose read was slow to fail
	parts  map[int64][]byte // sectors of pieces that cannot be read whole
	unread map[int64]bool
	failed []int64
}

func newProber(r io.ReaderAt, size int64, block int) *prober {
	return &prober{
		r: r, size: size, block: int64(block), unread: map[int64]bool{}, slow: map[int64]bool{},
		chunks: map[int64][]byte{}, pieces: map[int64][]byte{}, parts: map[int64][]byte{},
	}
}

// at returns n bytes at off, or nil if they are not there or cannot be read. The caller must not
// change them.
func (p *prober) at(off int64, n int) []byte {
	if off < 0 || off+int64(n) > p.size {
		return nil
	}
	if i := off / chunk; (off+int64(n)-1)/chunk == i {
		if c := p.cached(p.chunks, i, chunk); c != nil {
			return c[off-i*chunk:][:n]
		}
	}
	b := make([]byte, 0, n)
	for at := off; at < off+int64(n); {
		s := p.sector(at)
		if s == nil {
			if !p.unread[off] {
				p.unread[off] = true
				p.failed = append(p.failed, off)
			}
			return nil
		}
		b = append(b, s[:min(int64(len(s)), off+int64(n)-at)]...)
		at += int64(len(s))
	}
	return b
}

// sector returns what can be read from off to the end of the sector that off lies in, or nil if
// nothing can be read.
func (p *prober) sector(off int64) []byte {
	if c := p.cached(p.chunks, off/chunk, chunk); c != nil {
		return c[off%chunk : min(int64(len(c)), off%chunk/sectorSize*sectorSize+sectorSize)]
	}
	if c := p.cached(p.pieces, off/piece, piece); c != nil {
		return c[off%piece : min(int64(len(c)), off%piece/sectorSize*sectorSize+sectorSize)]
	}
	if p.slow[off/piece] {
		return nil
	}
	if c := p.cached(p.parts, off/sectorSize, sectorSize); c != nil {
		return c[off%sectorSize:]
	}
	return nil
}

// cached reads the i-th part of the disk, in parts of that length, unless that was done before.
func (p *prober) cached(in map[int64][]byte, i, length int64) []byte {
	c, known := in[i]
	if !known {
		c = make([]byte, min(length, p.size-i*length))
		begun := time.Now()
		if n, _ := p.r.ReadAt(c, i*length); n < len(c) {
			c = nil
			p.slow[i*length/piece] = p.slow[i*length/piece] || length == piece &&
				time.Since(begun) > slowRead
		}
		in[i] = c
	}
	return c
}

// blank reports whether the readable 4 KiB pieces of [from, to) are zero.
func (p *prober) blank(from, to int64) bool {
	for i := from / chunk; i*chunk < to; i++ {
		if c := p.cached(p.chunks, i, chunk); c != nil {
			if !zero(c[max(from-i*chunk, 0):min(int64(len(c)), to-i*chunk)]) {
				return false
			}
			continue
		}
		for off := max(from, i*chunk); off < min(to, (i+1)*chunk); {
			n := min(piece-off%piece, to-off)
			if c := p.cached(p.pieces, off/piece, piece); c != nil &&
				!zero(c[off%piece:min(int64(len(c)), off%piece+n)]) {
				return false
			}
			off += n
		}
	}
	return true
}
