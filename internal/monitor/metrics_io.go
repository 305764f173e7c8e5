package monitor

import (
	"github.com/prometheus/client_golang/prometheus"

	"ublkremap/internal/control"
)

func init() {
	families = append(families, kinds{
		desc: desc("requests_total", "Requests of the device that were answered, by operation.",
			"operation"),
		values: func(st *control.Status) map[string]uint64 {
			return map[string]uint64{"read": st.IO.Reads, "write": st.IO.Writes,
				"flush": st.IO.Flushes, "discard": st.IO.Discards}
		},
	}, plain{
		counter("read_bytes_total", "Bytes that were read from the device.",
			func(st *control.Status) float64 { return float64(st.IO.ReadBytes) }),
		counter("written_bytes_total", "Bytes that were written to the device.",
			func(st *control.Status) float64 { return float64(st.IO.WriteBytes) }),
		figure("requests_under_way", "Requests of the device that are under way.",
			func(st *control.Status) float64 { return float64(st.Requests.UnderWay) }),
		figure("requests_under_way_max", "Requests that can be under way: queues times depth.",
			func(st *control.Status) float64 { return float64(st.Requests.Most) }),
		figure("requests_slow", "Requests that are under way for three seconds or more.",
			func(st *control.Status) float64 { return float64(st.Requests.Slow) }),
		{
			desc: desc("requests_slow_since_timestamp_seconds", "Since when the oldest slow "+
				"request is under way. There is no value if none is slow."),
			kind: prometheus.GaugeValue,
			value: func(st *control.Status) float64 {
				return float64(st.Requests.SlowSince.Unix())
			},
			has: func(st *control.Status) bool { return st.Requests.SlowSince != nil },
		},
	})
}
