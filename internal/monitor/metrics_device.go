package monitor

import (
	"github.com/prometheus/client_golang/prometheus"

	"ublkremap/internal/control"
)

func init() {
	families = append(families, newDeviceFamily(), plain{
		gauge("device_size_bytes", "Size of the device.", func(st *control.Status) float64 {
			return float64(st.SizeBlocks) * float64(st.BlockSize)
		}),
		gauge("server_up", "Whether a living server has the device (1) or not (0).",
			func(st *control.Status) float64 { return yes(st.ServerPID != 0) }),
		{
			desc: desc("waiting_since_timestamp_seconds", "Since when no I/O of a disk has come "+
				"back though some is under way. There is no value if it comes back."),
			kind:  prometheus.GaugeValue,
			value: func(st *control.Status) float64 { return float64(st.WaitingSince.Unix()) },
			has:   func(st *control.Status) bool { return st.WaitingSince != nil },
		},
	})
}

// states are all states that a device can be in, so that a state that it is not in has a 0.
var states = []control.State{control.StateLive, control.StateRecovering, control.StateDegraded,
	control.StateTripped, control.StateFailed, control.StateStopping, control.StateUnreachable}

// verdicts are those of package health.
var verdicts = []string{"good", "watch", "replace_now", "unknown"}

// deviceFamily says which devices there are, and their states.
type deviceFamily struct{ info, state, missing, verdict *prometheus.Desc }

func newDeviceFamily() *deviceFamily {
	return &deviceFamily{
		info: desc("device_info", "A device and its disk. The value is 1.", "device", "uuid",
			"backing"),
		state: desc("device_state", "1 for the state that the device is in, 0 for the others.",
			"state"),
		missing: desc("disks_missing", "Disks of the device that are not on this host: the "+
			"backing disk or spare devices."),
		verdict: desc("disk_verdict", "1 for the verdict on the disk, as that of health, 0 for "+
			"the others. It is an hour old at most, and is not there before the first one.",
			"verdict"),
	}
}

func (f *deviceFamily) describe(to chan<- *prometheus.Desc) {
	to <- f.info
	to <- f.state
	to <- f.missing
	to <- f.verdict
}

func (f *deviceFamily) collect(st *Device, to chan<- prometheus.Metric) {
	to <- prometheus.MustNewConstMetric(f.info, prometheus.GaugeValue, 1, st.Name, text(st.Device),
		text(st.UUID), text(st.Backing))
	for _, s := range states {
		to <- prometheus.MustNewConstMetric(f.state, prometheus.GaugeValue, yes(st.State == s),
			st.Name, string(s))
	}
	to <- prometheus.MustNewConstMetric(f.missing, prometheus.GaugeValue, float64(st.Missing),
		st.Name)
	for _, v := range verdicts {
		if st.Verdict != "" {
			to <- prometheus.MustNewConstMetric(f.verdict, prometheus.GaugeValue,
				yes(st.Verdict == v), st.Name, v)
		}
	}
}
