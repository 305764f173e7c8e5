package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/exporter-toolkit/web"
)

// Options say how to serve.
type Options struct {
	Listen []string // addresses, host:port
	// Config is a file of exporter-toolkit with certificates and passwords; empty: neither. See
	// https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md.
	Config string
	Log    *slog.Logger
	// Version is a label of ublk_remap_build_info.
	Version string
	// Alerts tells what the ways of alerts have done, by their names; nil: there are none.
	Alerts func() map[string]AlertCount
}

// headerTime bounds how long a client may take to send a request. Scrapes take scrapeTime.
const headerTime = 5 * time.Second

// Handler answers /metrics, also with what more collects.
func Handler(source Source, version string, more ...prometheus.Collector) (http.Handler, error) {
	r := prometheus.NewPedanticRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: "build_info",
		Help:        "The version of this program. The value is 1.",
		ConstLabels: prometheus.Labels{"version": version}})
	info.Set(1)
	for _, c := range append([]prometheus.Collector{NewCollector(source), info,
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewGoCollector()}, more...) {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	mux := http.NewServeMux()
	// Two scrapes at once are one more than anybody needs.
	mux.Handle("GET /metrics", promhttp.InstrumentMetricHandler(r, promhttp.HandlerFor(r,
		promhttp.HandlerOpts{Registry: r, MaxRequestsInFlight: 2})))
	return mux, nil
}

// Serve answers requests until ctx ends.
func Serve(ctx context.Context, source Source, o Options) error {
	var more []prometheus.Collector
	if o.Alerts != nil {
		more = append(more, newAlerts(o.Alerts))
	}
	h, err := Handler(source, o.Version, more...)
	if err != nil {
		return err
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: headerTime,
		WriteTimeout: scrapeTime + 2*headerTime}
	stopped := context.AfterFunc(ctx, func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), headerTime)
		defer cancel()
		_ = s.Shutdown(end)
	})
	defer stopped()
	systemd := false
	err = web.ListenAndServe(s, &web.FlagConfig{WebListenAddresses: &o.Listen,
		WebSystemdSocket: &systemd, WebConfigFile: &o.Config}, o.Log)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
