package control

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"testing"
)

func (f *fake) Surface(_ context.Context, from, to uint64, cells int) (*Surface, error) {
	return &Surface{BlockSize: 512, SizeBlocks: to, From: from, To: to,
		PerCell: (to - from) / uint64(cells), Cells: []SurfaceCell{{Cell: 1, Pending: 7}},
		Regions: []SurfaceRegion{}}, f.fail
}

// TestSurface: the numbers of a request reach the handler, and its answer the client. What is no
// range is refused before.
func TestSurface(t *testing.T) {
	useTempDir(t)
	serve(t, "disk", &fake{})
	s, err := NewClient("disk").Surface(t.Context(), 100, 1<<40, 64)
	if err != nil || s.From != 100 || s.To != 1<<40 || s.PerCell != (1<<40-100)/64 ||
		len(s.Cells) != 1 || s.Cells[0] != (SurfaceCell{Cell: 1, Pending: 7}) {
		t.Errorf("%+v, %v", s, err)
	}
	c := NewClient("disk")
	for _, bad := range []string{"?from=5&to=5", "?from=-1", "?to=x", "?cells=0", "?cells=4097",
		"?cells=99999999999999999999", "?from=7&to=3"} {
		err := c.call(t.Context(), askTimeout, http.MethodGet, "/v1/surface"+bad, nil, &Surface{})
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	err = c.call(t.Context(), askTimeout, http.MethodGet, "/v1/surface", nil, s)
	if err != nil || s.From != 0 || s.To != 1<<64-1 {
		t.Errorf("without numbers: %+v, %v", s, err)
	}
}

// TestSurfaceFits: the largest answer is not too long for the client.
func TestSurfaceFits(t *testing.T) {
	s := Surface{}
	for i := range uint64(MaxSurface) {
		s.Cells = append(s.Cells, SurfaceCell{i, 1 << 50, 1 << 50, 1 << 50,
			"2026-03-01T11:55:00Z", "operator"})
	}
	for i := range uint64(MaxSurface) {
		s.Spares = append(s.Spares, SurfaceSpares{i, 1 << 32, 1 << 32, 1 << 32})
	}
	b, err := json.Marshal(s)
	if err != nil || len(b) > maxAnswer*9/10 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}
