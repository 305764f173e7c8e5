package files

import "slices"

// A look at a file system that is in use is many questions, and it can change between them. An
// answer that is put together from before and after may be true at no time: a file that has moved
// is told twice, or not at all.

// looks is how often a file system is looked at until it has not changed meanwhile.
const looks = 3

const unsettled = "it was changed each time while it was looked at, so that not all that is told " +
	"of it is of the same moment: ask again"

// settled has look tell of pieces of a mounted file system, until what is told holds for one state
// of it. look reports whether nothing has changed meanwhile, as far as that is known. If it is
// looked at twice and the same is told, no change concerned it. If there is always a change, a note
// says so.
func (v *volume) settled(look func() (same bool, err error)) (err error) {
	facts, notes := len(v.facts), len(v.notes)
	var before []placed
	for n := range looks {
		v.facts, v.notes = v.facts[:facts], v.notes[:notes]
		var same bool
		same, err = look()
		now := v.facts[facts:]
		if same || v.cut || n > 0 && err == nil && slices.Equal(now, before) {
			return err
		}
		before = slices.Clone(now)
	}
	if !v.prove { // a proof is of each place by itself
		v.notes = append(v.notes, v.fs+": "+unsettled)
	}
	return err
}
