package peer

import (
	"context"
	"encoding/json"
	"fmt"
)

// scrubStatus is what a scrub says of itself.
type scrubStatus struct {
	State    string `json:"state"`
	Position int64  `json:"position"` // block
}

func (v *Device) scrub(ctx context.Context, verb string) (st scrubStatus, err error) {
	out, err := run(ctx, v.Peer.Program, "scrub", verb, v.Path, "--json")
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		return st, fmt.Errorf("%w: %w", ErrStatus, err)
	}
	return st, nil
}

// WithScrub runs f while a scrub reads the device, with the defaults of a user, and returns how
// many blocks it read meanwhile. It returns ErrStatus if the scrub was not running all the time.
func (v *Device) WithScrub(ctx context.Context, f func() error) (blocks int64, err error) {
	if _, err := v.scrub(ctx, "start"); err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	st, err := v.scrub(ctx, "status")
	if err != nil {
		return 0, err
	}
	if st.State != "running" || st.Position == 0 {
		return 0, fmt.Errorf("%w: the scrub is %s at block %d: make the runtime shorter", ErrStatus,
			st.State, st.Position)
	}
	_, err = v.scrub(ctx, "stop")
	return st.Position, err
}
