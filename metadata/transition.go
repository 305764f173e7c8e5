package metadata

import "fmt"

// Transition says that a set is on its way from or to a plain disk. Such a set
// is not served: Load refuses it with ErrUnfinished. The values are frozen with
// format version 4; they count only where the superblock has the incompat bit
// of transitions, so that a version that does not know them refuses the set.
type Transition uint32

const (
	// TransitionNone is a set as any other.
	TransitionNone Transition = 0
	// TransitionCopied: TakeOver has copied the head and written what lies
	// outside of it. The disk is the old one still: nothing in its head was
	// changed, except that the page at Mark may be torn.
	TransitionCopied Transition = 1
	// TransitionTaken: the displaced copy counts from now on. What the set has
	// in the head may not be written yet.
	TransitionTaken Transition = 2
	// TransitionReleasing: all data is at home except for the head, which is
	// being moved back to the front. The page at Mark goes last.
	TransitionReleasing Transition = 3
)

// incompatTransition is the feature bit of a superblock that has a Transition.
const incompatTransition uint32 = 1

// String returns the transition's name in JSON.
func (t Transition) String() string {
	switch t {
	case TransitionNone:
		return "none"
	case TransitionCopied:
		return "taking-over-copied"
	case TransitionTaken:
		return "taking-over"
	case TransitionReleasing:
		return "releasing"
	}
	return fmt.Sprintf("transition(%d)", uint32(t))
}

// MarshalText makes JSON carry the name.
func (t Transition) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// unfinished is the error that says what to do about a set in transition, nil
// for any other.
func (sb *Superblock) unfinished() error {
	switch sb.Transition {
	case TransitionNone:
		return nil
	case TransitionReleasing:
		return fmt.Errorf("%w: %q is being given back; finish it with: ublk-remap release", ErrUnfinished, sb.Name)
	}
	return fmt.Errorf("%w: %q is being taken over in place; finish it with: ublk-remap create --in-place, or undo it with: ublk-remap release", ErrUnfinished, sb.Name)
}
