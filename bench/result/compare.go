package result

import (
	"strings"

	"ublkremap/bench/peer"
)

// Comparison is a ratio that is asked for.
type Comparison struct {
	Case          Case
	Peer, Against string
	Ratio         Spread
	Target        float64 // 0: none, only for information
}

// The targets.
const (
	AgainstUblksrv = 1.00
	AgainstLoop    = 1.2  // 4k random, depth 32, 4 queues, under QEMU
	Misses         = 0.99 // requests that meet none of a million remaps
	EveryHundredth = 0.90 // every hundredth block remapped
)

// Comparisons returns the ratios of every case, of ublk-remap's devices: against ublksrv in
// the same mode, the kernel's loop driver, ublk-remap without the variant's flags, and
// itself without remaps.
func (r *Results) Comparisons() []Comparison {
	var out []Comparison
	for _, c := range r.Cases() {
		peers := r.PeersOf([]Case{c})
		for _, p := range peers {
			if p.Kind != peer.Remap {
				continue
			}
			for _, o := range peers {
				if o.Name == p.Name {
					continue
				}
				target, ok := r.target(c, p, o)
				if !ok {
					continue
				}
				if ratio := r.Ratio(c, p.Name, o.Name); ratio.N > 0 {
					out = append(out, Comparison{c, p.Name, o.Name, ratio, target})
				}
			}
		}
	}
	return out
}

// target says whether p is to be compared with o in a case, and what is wanted.
func (r *Results) target(c Case, p, o peer.Peer) (float64, bool) {
	switch {
	case p.Table != nil:
		// Among those that start with a table, each with the one that has none in it.
		if o.Table == nil || p.Zero != o.Zero || o.Table.Remaps != 0 || p.Table.Remaps == 0 {
			return 0, false
		}
		if strings.HasPrefix(c.Job, "miss-") {
			return Misses, true
		}
		return EveryHundredth, true
	case o.Kind == peer.Ublksrv:
		return AgainstUblksrv, p.Zero == o.Zero
	case o.Kind == peer.Loop:
		// Under user-mode Linux the kernel's driver leads every server.
		if c.Queues == 4 && strings.HasSuffix(c.Job, "-4k-d32") && r.Machine.Guest != "uml" {
			return AgainstLoop, true
		}
		return 0, true
	case o.Kind == peer.Remap:
		return 0, p.Variant && !o.Variant && p.Zero == o.Zero
	}
	return 0, false
}
