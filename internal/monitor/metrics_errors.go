package monitor

import (
	"github.com/prometheus/client_golang/prometheus"

	"ublkremap/internal/control"
)

func init() {
	families = append(families, kinds{
		desc: desc("disk_errors_total", "Operations on the disks that failed, by kind. Transport "+
			"errors are not the medium's fault, and are counted as read, write or flush too.",
			"kind"),
		values: func(st *control.Status) map[string]uint64 {
			return map[string]uint64{"read": st.Errors.Read, "write": st.Errors.Write,
				"flush": st.Errors.Flush, "transport": st.Errors.Transport}
		},
	}, kinds{
		desc: desc("heals_total", "Requests that met a bad block, by how they ended: write "+
			"(remapped), read (read by a retry) or failed.", "result"),
		values: func(st *control.Status) map[string]uint64 {
			return map[string]uint64{"write": st.Heals.Writes, "read": st.Heals.Reads,
				"failed": st.Heals.Failed}
		},
	}, plain{
		counter("reads_failed_fast_total", "Reads of pending blocks that had failed a moment ago "+
			"and were answered without a new try.",
			func(st *control.Status) float64 { return float64(st.Errors.FailedFast) }),
		counter("reads_not_noted_total", "Failed reads whose blocks could not be noted as pending.",
			func(st *control.Status) float64 { return float64(st.Errors.NotNoted) }),
	})
}

// kinds is a counter with a label that has a fixed number of values.
type kinds struct {
	desc   *prometheus.Desc
	values func(*control.Status) map[string]uint64
}

func (k kinds) describe(to chan<- *prometheus.Desc) { to <- k.desc }

func (k kinds) collect(st *Device, to chan<- prometheus.Metric) {
	if !answered(st.Status) {
		return
	}
	for kind, n := range k.values(st.Status) {
		to <- prometheus.MustNewConstMetric(k.desc, prometheus.CounterValue, float64(n), st.Name,
			kind)
	}
}
