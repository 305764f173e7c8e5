package control

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
)

// RetestHandler carries out requests about retests.
type RetestHandler interface {
	// StartRetest begins a retest, which goes on by itself, and returns its state. The error is
	// ErrBusy if one is under way.
	StartRetest(ctx context.Context, r RetestRequest) (Retest, error)
	// Retest returns the state of the last retest.
	Retest(ctx context.Context) (Retest, error)
	// StopRetest ends the retest that is under way, if any. It does not wait for the end.
	StopRetest(ctx context.Context) (Retest, error)
}

// RetestRequest asks for a retest of blocks.
type RetestRequest struct {
	Ranges []Range `json:"ranges"` // none: all blocks
	// KeepMoved leaves out what an operator, or an imported list, moved on purpose.
	KeepMoved bool `json:"keep_moved"`
	// PauseMS is the time between the two tests of a block, in milliseconds.
	PauseMS int64 `json:"pause_ms"`
}

// Retest is the state of a retest. Counts are blocks.
type Retest struct {
	ID    uint64 `json:"id"` // counts the retests of this server; 0: there was none
	Ended bool   `json:"ended"`
	// Step is what it does: find, write, displace (other places are read), read, pause or take
	// (read and move home).
	Step    string `json:"step"`
	Second  bool   `json:"second"`  // it is the second test
	Found   uint64 `json:"found"`   // put under test so far
	Home    uint64 `json:"home"`    // well: they moved home, or are no longer pending
	Failed  uint64 `json:"failed"`  // not well
	Changed uint64 `json:"changed"` // written to, or remapped, during each test
	Skipped uint64 `json:"skipped"` // came home by another way, or became lost
	// Position is the next block to look at, and Size where that ends.
	Position uint64 `json:"position"`
	Size     uint64 `json:"size"`
	Error    string `json:"error"` // why it ended early; empty: it did not
}

// maxPauseMS is the longest pause of a retest: a week.
const maxPauseMS = 7 * 24 * 3600 * 1000

func (r *router) startRetest(w http.ResponseWriter, req *http.Request) {
	var ask RetestRequest
	d := json.NewDecoder(http.MaxBytesReader(w, req.Body, maxBody))
	d.DisallowUnknownFields()
	err := d.Decode(&ask)
	switch {
	case err != nil:
		err = fmt.Errorf("%w: %w", ErrInvalid, noEOF(err))
	case len(ask.Ranges) > maxRanges:
		err = fmt.Errorf("%w: more than %d ranges", ErrInvalid, maxRanges)
	case ask.PauseMS < 0 || ask.PauseMS > maxPauseMS:
		err = fmt.Errorf("%w: a pause of %d ms: want 0 to a week", ErrInvalid, ask.PauseMS)
	}
	if err != nil {
		reply(w, nil, err)
		return
	}
	begun(req)
	v, err := r.h.StartRetest(req.Context(), ask)
	reply(w, v, err)
}

// retest answers a request without a body about the retest.
func retest(f func(context.Context) (Retest, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		begun(req)
		v, err := f(req.Context())
		reply(w, v, err)
	}
}

// StartRetest begins a retest, which goes on by itself. A server that is too old for that returns
// an error that wraps ErrNotFound.
func (c *Client) StartRetest(ctx context.Context, ask RetestRequest) (r Retest, err error) {
	if len(ask.Ranges) > maxRanges {
		return r, fmt.Errorf("%w: more than %d ranges", ErrInvalid, maxRanges)
	}
	err = c.call(ctx, askTimeout, http.MethodPost, "/v1/retest", ask, &r)
	return r, err
}

// Retest asks for the state of the last retest.
func (c *Client) Retest(ctx context.Context) (r Retest, err error) {
	err = c.call(ctx, askTimeout, http.MethodGet, "/v1/retest", nil, &r)
	return r, err
}

// StopRetest ends the retest that is under way. It does not wait for the end.
func (c *Client) StopRetest(ctx context.Context) (r Retest, err error) {
	err = c.call(ctx, askTimeout, http.MethodPost, "/v1/retest/stop", nil, &r)
	return r, err
}
