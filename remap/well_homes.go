package remap

import "ublkremap/metadata"

// This file remembers which homes have passed a test of the scrub's retest once. The second test
// comes a pass of the scrub later, perhaps a week. Nothing of it is on disk: after a restart the
// first test is made again.

// wellHomesMost is how many units are remembered at most. More of them are tested again later.
const wellHomesMost = 1 << 14

// wellHome is a unit of which homes have passed a test.
type wellHome struct {
	blocks uint8
	pass   uint32 // of the scrub, after which they were tested last
}

// Well returns the blocks of a unit whose homes have passed a test, and after which pass of the
// scrub. They live in spare units, and no home of them has failed since in anything.
func (a *Arbiter) Well(unit uint64) (blocks uint8, pass uint32) {
	w := a.wellHomes[unit]
	return w.blocks, w.pass
}

// NoteWell notes homes that have passed a test.
func (a *Arbiter) NoteWell(unit uint64, blocks uint8, pass uint32) {
	if _, known := a.wellHomes[unit]; !known && len(a.wellHomes) == wellHomesMost || blocks == 0 {
		return
	}
	if a.wellHomes == nil {
		a.wellHomes = map[uint64]wellHome{}
	}
	a.wellHomes[unit] = wellHome{blocks, pass}
}

// NoLongerWell forgets what is known of homes.
func (a *Arbiter) NoLongerWell(unit uint64, blocks uint8) {
	w, known := a.wellHomes[unit]
	if !known {
		return
	}
	if w.blocks &^= blocks; w.blocks == 0 {
		delete(a.wellHomes, unit)
	} else {
		a.wellHomes[unit] = w
	}
}

// wellHomesChange forgets the homes of blocks that a commit moves.
func (a *Arbiter) wellHomesChange(e *metadata.Entry) {
	if len(a.wellHomes) == 0 {
		return
	}
	for i := range uint64(e.Count) {
		a.NoLongerWell(e.Unit+i, e.Mask)
	}
}
