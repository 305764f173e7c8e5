package monitor

import (
	"github.com/prometheus/client_golang/prometheus"

	"ublkremap/internal/control"
)

func init() {
	families = append(families, newMirrorFamily(), plain{
		figure("breaker_open", "Whether remapping is stopped (1) or not (0).",
			func(st *control.Status) float64 { return yes(st.Breaker.State == "open") }),
		figure("metadata_bad_superblocks", "Copies of the superblock that cannot be written.",
			func(st *control.Status) float64 { return float64(st.Metadata.BadSuperblocks) }),
		counter("metadata_refreshed_total", "Places of the metadata that were found bad and have "+
			"been written again.",
			func(st *control.Status) float64 { return float64(st.Metadata.Scrubbed) }),
		figure("metadata_log_used_bytes", "What is in use of the log of the remap table.",
			func(st *control.Status) float64 { return float64(st.Metadata.LogUsed) }),
		figure("metadata_log_size_bytes", "Size of the log of the remap table.",
			func(st *control.Status) float64 { return float64(st.Metadata.LogSize) }),
	})
}

// mirrorStates are the states of mirrors.
var mirrorStates = []string{"good", "weak", "stale", "rebuilding"}

// mirrorFamily counts mirrors. Their places are no labels, because a mirror whose place goes bad
// moves.
type mirrorFamily struct{ mirrors *prometheus.Desc }

func newMirrorFamily() *mirrorFamily {
	return &mirrorFamily{desc("metadata_mirrors", "Copies of the remap table, by state.", "state")}
}

func (f *mirrorFamily) describe(to chan<- *prometheus.Desc) { to <- f.mirrors }

func (f *mirrorFamily) collect(st *Device, to chan<- prometheus.Metric) {
	if !answered(st.Status) {
		return
	}
	n := map[string]int{}
	for _, m := range st.Metadata.Mirrors {
		n[m.State]++
	}
	for _, s := range mirrorStates {
		to <- prometheus.MustNewConstMetric(f.mirrors, prometheus.GaugeValue, float64(n[s]),
			st.Name, s)
	}
}
