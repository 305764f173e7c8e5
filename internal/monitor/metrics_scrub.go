package monitor

import (
	"github.com/prometheus/client_golang/prometheus"

	"ublkremap/internal/control"
)

func init() {
	families = append(families, plain{
		figure("scrub_running", "Whether the disk is being scrubbed (1) or not (0).",
			func(st *control.Status) float64 { return yes(st.Scrub.State == "running") }),
		figure("scrub_position_blocks", "Blocks that the present or last scrub has read.",
			func(st *control.Status) float64 { return float64(st.Scrub.Position) }),
		figure("scrub_total_blocks", "Blocks that a scrub reads.",
			func(st *control.Status) float64 { return float64(st.Scrub.Total) }),
		{
			desc: desc("scrub_last_finished_timestamp_seconds", "When the last scrub ended. There "+
				"is no value if there was none."),
			kind: prometheus.GaugeValue,
			value: func(st *control.Status) float64 {
				return float64(st.Scrub.LastFinished.Unix())
			},
			has: func(st *control.Status) bool { return st.Scrub.LastFinished != nil },
		},
	})
}
