package metadata

import (
	"fmt"

	"github.com/cespare/xxhash/v2"
	"github.com/google/uuid"
)

const pageHeader = 64

// checkpointID tells one checkpoint from every other of the set.
type checkpointID struct {
	epoch      uint64 // of the start that wrote it
	generation uint64 // counts the checkpoints
}

// header is a checkpoint's header page. It is written last: once it is there,
// all pages are.
type header struct {
	checkpointID
	covers  link   // the newest record whose effect the pages are sure to show
	session uint64 // of the start that wrote it
	pages   uint32
	entries uint64
	digest  uint64 // xxhash64 of all pages' checksums, 8 bytes each, in order
}

func (h *header) encode(b []byte, set *uuid.UUID) {
	clear(b[:PageSize])
	le.PutUint64(b, magicHeader)
	le.PutUint32(b[8:], Version)
	le.PutUint32(b[12:], h.pages)
	copy(b[24:40], set[:])
	le.PutUint64(b[40:], h.epoch)
	le.PutUint64(b[48:], h.generation)
	le.PutUint64(b[56:], h.covers.Epoch)
	le.PutUint64(b[64:], h.covers.Sequence)
	le.PutUint64(b[72:], h.covers.Hash)
	le.PutUint64(b[80:], h.session)
	le.PutUint64(b[88:], h.entries)
	le.PutUint64(b[96:], h.digest)
	seal(b)
}

func decodeHeader(b []byte, set *uuid.UUID) (h header, ok bool) {
	if !sealed(b, magicHeader) || le.Uint32(b[8:]) != Version || [16]byte(b[24:40]) != *set {
		return header{}, false
	}
	h = header{
		checkpointID: checkpointID{le.Uint64(b[40:]), le.Uint64(b[48:])},
		covers:       link{Position{le.Uint64(b[56:]), le.Uint64(b[64:])}, le.Uint64(b[72:])},
		session:      le.Uint64(b[80:]),
		pages:        le.Uint32(b[12:]),
		entries:      le.Uint64(b[88:]),
		digest:       le.Uint64(b[96:]),
	}
	return h, h.epoch <= maxEpoch && h.entries <= uint64(h.pages)*entriesPerPage
}

// encodePage writes a checkpoint page; entries are at most entriesPerPage. It
// returns the page's checksum.
func encodePage(b []byte, set *uuid.UUID, id checkpointID, index uint32, entries []Entry) uint64 {
	clear(b[:PageSize])
	le.PutUint64(b, magicPage)
	le.PutUint32(b[8:], Version)
	le.PutUint32(b[12:], index)
	copy(b[24:40], set[:])
	le.PutUint64(b[40:], id.epoch)
	le.PutUint64(b[48:], id.generation)
	le.PutUint32(b[56:], uint32(len(entries)))
	for i := range entries {
		putEntry(b[pageHeader+i*entrySize:], &entries[i])
	}
	return seal(b)
}

// decodePage reports whether b is page index of that checkpoint, how many
// entries it has, and its checksum.
func decodePage(b []byte, set *uuid.UUID, id checkpointID, index uint32) (count int, sum uint64,
	ok bool) {
	if !sealed(b, magicPage) || le.Uint32(b[8:]) != Version || le.Uint32(b[12:]) != index ||
		[16]byte(b[24:40]) != *set ||
		le.Uint64(b[40:]) != id.epoch || le.Uint64(b[48:]) != id.generation {
		return 0, 0, false
	}
	n := le.Uint32(b[56:])
	return int(n), le.Uint64(b[checksumOffset:]), n <= entriesPerPage
}

func pageEntry(b []byte, i int) []byte { return b[pageHeader+i*entrySize:] }

// pageWriter packs the entries of a Source into the pages of one checkpoint.
// It allocates only when it is first used.
type pageWriter struct {
	set     *uuid.UUID
	lim     *limits
	src     Source
	id      checkpointID
	max     uint32 // pages that fit
	cursor  uint64
	drained bool
	scratch []Entry // len: what waits for a page
	digest  xxhash.Digest
	pages   uint32
	entries uint64
}

func (w *pageWriter) begin(set *uuid.UUID, lim *limits, src Source, id checkpointID,
	maxPages uint32) {
	if w.scratch == nil {
		w.scratch = make([]Entry, 0, 2*entriesPerPage)
	}
	w.set, w.lim, w.src, w.id, w.max = set, lim, src, id, maxPages
	w.cursor, w.drained, w.scratch = 0, false, w.scratch[:0]
	w.digest.Reset()
	w.pages, w.entries = 0, 0
}

// finished reports that all entries are in pages.
func (w *pageWriter) finished() bool { return w.drained && len(w.scratch) == 0 }

// fill encodes the next pages into b and returns how many bytes of it they
// take. Errors: ErrTableFull; ErrInvalidEntry, for nothing invalid may ever reach a
// disk.
//
// A source that comes back with little has looked at much: units in a row are one
// entry. Then fill returns with the pages that are full, perhaps none, and is to be called
// again if it has not finished. Or a table of few entries and many units would hold
// commits up for as long as it takes to walk all of it.
func (w *pageWriter) fill(b []byte) (n int, err error) {
	for short := false; len(b)-n >= PageSize; {
		for !short && !w.drained && len(w.scratch) < entriesPerPage {
			have := len(w.scratch)
			room := cap(w.scratch) - have
			k, next, done := w.src.Entries(w.cursor, w.scratch[have:cap(w.scratch)])
			if k == 0 && !done {
				return 0, fmt.Errorf("%w: the source returned none at cursor %d", ErrInvalidEntry,
					w.cursor)
			}
			w.scratch, w.cursor, w.drained = w.scratch[:have+k], next, done
			for i := have; i < have+k; i++ {
				if err := w.lim.validate(&w.scratch[i]); err != nil {
					return 0, err
				}
			}
			short = k < room/2
		}
		count := min(len(w.scratch), entriesPerPage)
		if count == 0 || count < entriesPerPage && !w.drained {
			break
		}
		if w.pages == w.max {
			return 0, fmt.Errorf("%w: it holds %d entries", ErrTableFull,
				uint64(w.max)*entriesPerPage)
		}
		addSum(&w.digest, encodePage(b[n:], w.set, w.id, w.pages, w.scratch[:count]))
		w.scratch = w.scratch[:copy(w.scratch, w.scratch[count:])]
		w.pages++
		w.entries += uint64(count)
		n += PageSize
	}
	return n, nil
}

func (w *pageWriter) header(covers link, session uint64) header {
	return header{
		checkpointID: w.id, covers: covers, session: session,
		pages: w.pages, entries: w.entries, digest: w.digest.Sum64(),
	}
}

func addSum(d *xxhash.Digest, sum uint64) {
	var b [8]byte
	le.PutUint64(b[:], sum)
	d.Write(b[:])
}

// less reports whether h is older than o.
func (h *header) less(o *header) bool {
	return h.epoch < o.epoch || h.epoch == o.epoch && h.generation < o.generation
}
