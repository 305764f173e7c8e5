package monitor

import "ublkremap/internal/control"

func init() {
	families = append(families, plain{
		figure("spare_units", "Spare units of 4096 bytes in all.",
			func(st *control.Status) float64 { return float64(st.Spare.Total) }),
		figure("spare_units_used", "Spare units that hold blocks.",
			func(st *control.Status) float64 { return float64(st.Spare.Used) }),
		figure("spare_units_free", "Spare units that can be given to bad blocks.",
			func(st *control.Status) float64 { return float64(st.Spare.Free) }),
	})
}
