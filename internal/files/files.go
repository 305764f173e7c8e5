package files

import (
	"cmp"
	"context"
	"os"
	"slices"
	"strings"
)

// Owner is the kind of thing that a block belongs to.
type Owner string

// The owners.
const (
	OwnerFile     Owner = "file"     // the contents of a file
	OwnerFree     Owner = "free"     // free space of a file system
	OwnerMetadata Owner = "metadata" // of a file system, or of what lies below it
	OwnerUnknown  Owner = "unknown"  // Row.What says why
)

// Device is the device that is asked about.
type Device struct {
	Path      string
	BlockSize int64 // bytes
	// Progress is told how far the search is. nil: nobody.
	Progress Progress
}

// Run is a run of blocks of the device.
type Run struct {
	Block, Count uint64
	State        string // is passed on to the rows
}

// Row says whose a run of blocks is. The JSON names are stable.
type Row struct {
	Block uint64 `json:"block"` // first one, of the device that was asked about
	Count uint64 `json:"count"` // blocks
	State string `json:"state"` // pending, lost, mapped, slow or home
	Fact
}

// Fact is what is known of a place.
type Fact struct {
	Owner Owner `json:"owner"`
	// Path is that of the file or directory. If the file system is not mounted it is the path
	// within the file system. Empty: it has none, or it is not known.
	Path  string `json:"path"`
	Inode uint64 `json:"inode"` // 0: none, or not known
	// Filesystem is its type, its device, and where it is mounted. Empty: there is none.
	Filesystem string `json:"filesystem"`
	What       string `json:"what"` // in words, such as "journal", or why the owner is not known
}

// Unwritten is What says of a file's blocks that are allocated and hold nothing yet. Their contents
// are never read.
const Unwritten = "allocated, nothing written yet"

// Damaged reports whether data is lost if the place cannot be read.
func (f *Fact) Damaged() bool {
	return f.Owner == OwnerFile && f.What != Unwritten && !strings.HasPrefix(f.What, redundant)
}

// Result is what Find found.
type Result struct {
	Rows []Row // by block
	// Notes say what makes the rows less certain, one sentence each.
	Notes []string
	// Incomplete: the search was cut off by its context.
	Incomplete bool
}

// piece is a run of bytes: where it is on the device that is asked about (top), and on the device
// that is looked at (at).
type piece struct{ top, at, size int64 }

// from returns the rest of a piece behind its first n bytes.
func (p piece) from(n int64) piece { return piece{p.top + n, p.at + n, p.size - n} }

// placed is a fact about a run of bytes of the device that is asked about.
type placed struct {
	top, size int64
	fact      Fact
	proven    bool // free, and may be overwritten
}

// finder is one search.
type finder struct {
	ctx    context.Context
	facts  []placed
	notes  []string
	mounts []mount
	cut    bool // the context ended

	progress Progress

	way []string // the devices from the one that is asked about to the one that is looked at

	prove bool       // only free space is searched for: see Prove
	moves bool       // a mounted file system has proved something
	held  []*os.File // devices in exclusive use
}

// Find says whose the blocks are. The runs may come in any order and must not overlap. All of them
// are in the result: what could not be found out has the owner unknown. If the context ends, the
// rest is unknown.
func Find(ctx context.Context, dev Device, runs []Run) (*Result, error) {
	f := &finder{ctx: ctx}
	runs = slices.Clone(runs)
	slices.SortFunc(runs, func(a, b Run) int { return cmp.Compare(a.Block, b.Block) })
	if err := f.find(dev, runs); err != nil {
		return nil, err
	}
	return &Result{Rows: rows(runs, f.facts, dev.BlockSize), Notes: f.notes,
		Incomplete: f.cut}, nil
}

// find finds facts about runs, which are in order.
func (f *finder) find(dev Device, runs []Run) error {
	if f.progress = dev.Progress; f.progress == nil {
		f.progress = untold{}
	}
	f.mounts = allMounts()
	var all []piece
	for _, r := range runs {
		at := int64(r.Block) * dev.BlockSize
		p := piece{top: at, at: at, size: int64(r.Count) * dev.BlockSize}
		if n := len(all) - 1; n >= 0 && all[n].at+all[n].size == at {
			all[n].size += p.size
			continue
		}
		all = append(all, p)
	}
	d, err := nodeAt(dev.Path)
	if err != nil {
		return err
	}
	f.layer(d, all, 0)
	slices.Sort(f.notes)
	f.notes = slices.Compact(f.notes)
	return nil
}

// over reports whether the search has to end.
func (f *finder) over() bool {
	f.cut = f.cut || f.ctx.Err() != nil
	return f.cut
}

// tell notes a fact about pieces.
func (f *finder) tell(pieces []piece, fact Fact) {
	for _, p := range pieces {
		f.facts = append(f.facts, placed{top: p.top, size: p.size, fact: fact})
	}
}

// unknown notes that pieces have no known owner, and why.
func (f *finder) unknown(pieces []piece, filesystem, why string) {
	f.tell(pieces, Fact{Owner: OwnerUnknown, Filesystem: filesystem, What: why})
}

// within returns the parts of pieces, which are ordered by at, that lie in a run of bytes.
func within(pieces []piece, start, end int64) (in []piece) {
	i, _ := slices.BinarySearchFunc(pieces, start, func(p piece, s int64) int {
		if p.at+p.size <= s {
			return -1
		}
		return 1
	})
	for ; i < len(pieces) && pieces[i].at < end; i++ {
		p := pieces[i]
		from, to := max(p.at, start), min(p.at+p.size, end)
		in = append(in, piece{p.top + from - p.at, from, to - from})
	}
	return in
}

// without returns the parts of pieces that no fact is about.
func without(pieces []piece, facts []placed) (rest []piece) {
	covered := slices.Clone(facts)
	slices.SortFunc(covered, func(a, b placed) int { return cmp.Compare(a.top, b.top) })
	byTop := slices.Clone(pieces)
	slices.SortFunc(byTop, func(a, b piece) int { return cmp.Compare(a.top, b.top) })
	next := 0
	for _, p := range byTop {
		from, end := p.top, p.top+p.size
		for next < len(covered) && covered[next].top+covered[next].size <= from {
			next++
		}
		for i := next; i < len(covered) && covered[i].top < end; i++ {
			c := covered[i]
			if c.top > from {
				rest = append(rest, piece{from, p.at + from - p.top, c.top - from})
			}
			from = max(from, c.top+c.size)
		}
		if from < end {
			rest = append(rest, piece{from, p.at + from - p.top, end - from})
		}
	}
	slices.SortFunc(rest, func(a, b piece) int { return cmp.Compare(a.at, b.at) })
	return rest
}

// rows turns facts about bytes into rows about blocks. A block is free only if all of it is.
func rows(runs []Run, facts []placed, blockSize int64) []Row {
	facts = joined(facts)
	var out []Row
	next := 0
	for _, r := range runs {
		start, end := int64(r.Block)*blockSize, int64(r.Block+r.Count)*blockSize
		for next < len(facts) && facts[next].top+facts[next].size <= start {
			next++
		}
		var mine []Row
		for _, p := range facts[next:] {
			if p.top >= end {
				break
			}
			from, to := max(p.top, start), min(p.top+p.size, end)
			if p.fact.Owner == OwnerFree {
				from, to = (from+blockSize-1)/blockSize, to/blockSize
			} else {
				from, to = from/blockSize, (to+blockSize-1)/blockSize
			}
			if from < to {
				mine = append(mine, Row{uint64(from), uint64(to - from), r.State, p.fact})
			}
		}
		out = append(out, complete(r, mine)...)
	}
	return out
}

// joined orders facts by their place, and joins those that continue each other. A later fact never
// ends before an earlier one begins to matter, as facts about one place are of the same size or
// follow each other.
func joined(facts []placed) []placed {
	all := slices.Clone(facts)
	slices.SortStableFunc(all, func(a, b placed) int {
		return cmp.Or(cmp.Compare(a.top, b.top), cmp.Compare(a.size, b.size))
	})
	var out []placed
	for _, p := range all {
		if n := len(out) - 1; n >= 0 && out[n].fact == p.fact &&
			p.top <= out[n].top+out[n].size {
			out[n].size = max(out[n].size, p.top+p.size-out[n].top)
			continue
		}
		out = append(out, p)
	}
	return out
}

// complete joins the rows of a run that say the same, and adds one for each block of which nothing
// is said: a block of which one part is free, for example, and the other part not even that.
func complete(r Run, mine []Row) (out []Row) {
	slices.SortStableFunc(mine, func(a, b Row) int { return cmp.Compare(a.Block, b.Block) })
	next := r.Block
	gap := func(to uint64) {
		if next < to {
			out = append(out, Row{next, to - next, r.State, Fact{Owner: OwnerUnknown,
				What: "its parts belong to different things"}})
		}
	}
	for _, row := range mine {
		gap(row.Block)
		next = max(next, row.Block+row.Count)
		if n := len(out) - 1; n >= 0 && out[n].Fact == row.Fact &&
			row.Block <= out[n].Block+out[n].Count {
			out[n].Count = max(out[n].Count, row.Block+row.Count-out[n].Block)
			continue
		}
		out = append(out, row)
	}
	gap(r.Block + r.Count)
	return out
}
