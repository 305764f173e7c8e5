package metadata

import (
	"bytes"
	"encoding/json"
	"testing"
)

// pieces counts what is written at once.
type pieces struct {
	bytes.Buffer
	largest int
}

func (p *pieces) Write(b []byte) (int, error) {
	p.largest = max(p.largest, len(b))
	return p.Buffer.Write(b)
}

// TestDumpComesInPieces: a table of many entries is one valid document, and never in memory
// as a whole.
func TestDumpComesInPieces(t *testing.T) {
	const n = 5000
	plan, err := Plan(PlanParams{BackingSize: 1 << 30, BlockSize: 4096, Name: "d"})
	if err != nil {
		t.Fatal(err)
	}
	tab := NewTable(plan)
	for i := range uint64(n) {
		if err := tab.Apply(Entry{Unit: 2 * i, Count: 1, Mask: 1, State: StatePending,
			Cause: CauseRead, Time: 7}); err != nil {
			t.Fatal(err)
		}
	}
	d := &DumpResult{Superblocks: []SuperblockCopy{}, Mirrors: []MirrorDump{}, Counts: tab.Counts(),
		table: tab}
	var out pieces
	if err := d.WriteJSON(&out, "  "); err != nil {
		t.Fatal(err)
	}
	var back struct {
		Table  []map[string]any `json:"table"`
		Counts map[string]any   `json:"counts"`
		Error  string           `json:"error"`
	}
	if err := json.Unmarshal(out.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if len(back.Table) != n || len(back.Counts) == 0 {
		t.Errorf("%d entries, counts %v", len(back.Table), back.Counts)
	}
	if out.largest > out.Len()/4 {
		t.Errorf("%d of %d bytes at once", out.largest, out.Len())
	}
	empty := &DumpResult{Superblocks: []SuperblockCopy{}, Mirrors: []MirrorDump{}, Error: "why"}
	out.Reset()
	if err := empty.WriteJSON(&out, " "); err != nil || json.Unmarshal(out.Bytes(), &back) != nil ||
		back.Error != "why" {
		t.Errorf("%v: %s", err, out.String())
	}
}
