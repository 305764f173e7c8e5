package set

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"ublkremap/metadata"
)

// TestProbeAllWaitsForSlowOnes: devices that answer one after the other are all heard, however long
// that takes. One that hangs ends the wait only when no other one answers any more.
func TestProbeAllWaitsForSlowOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		const limit = 10 * time.Second
		takes := map[string]time.Duration{"a": 8 * time.Second, "b": 16 * time.Second,
			"c": 24 * time.Second, "hangs": time.Hour}
		began := time.Now()
		all := probeAll(ctx, limit, []string{"hangs", "c", "b", "a"},
			func(ctx context.Context, path string) (*metadata.Superblock, error) {
				select {
				case <-time.After(takes[path]):
				case <-ctx.Done():
				}
				return &metadata.Superblock{Name: path}, nil
			})
		if took := time.Since(began); took != takes["c"]+limit {
			t.Errorf("it took %v", took)
		}
		if len(all) != len(takes) {
			t.Fatalf("%d answers", len(all))
		}
		for _, p := range all {
			if silent := errors.Is(p.Err, ErrSilent); silent != (p.Path == "hangs") ||
				!silent && p.Superblock.Name != p.Path {
				t.Errorf("%+v", p)
			}
		}
	})
}
