package monitor

import "ublkremap/internal/control"

func init() {
	families = append(families, plain{
		figure("remapped_units", "Units of 4096 bytes with blocks in the spare region.",
			func(st *control.Status) float64 { return float64(st.Remaps) }),
		figure("pending_blocks", "Blocks that do not read and wait for a write.",
			func(st *control.Status) float64 { return float64(st.Pending) }),
		figure("lost_blocks", "Blocks whose data is gone.",
			func(st *control.Status) float64 { return float64(st.Lost) }),
		withTable(figure("table_entries", "Entries of the remap table, an upper bound.",
			func(st *control.Status) float64 { return float64(st.Table.Entries) })),
		withTable(figure("table_entries_max", "Entries that the remap table has room for now.",
			func(st *control.Status) float64 { return float64(st.Table.Max) })),
	})
}

// withTable is for a metric of the remap table, which old servers do not tell.
func withTable(m metric) metric {
	m.has = func(st *control.Status) bool { return answered(st) && st.Table != nil }
	return m
}
