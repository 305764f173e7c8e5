package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/exporter-toolkit/web"

	"ublkremap/internal/control"
)

// Options say how to serve.
type Options struct {
	// Config is a file of exporter-toolkit with certificates and passwords; empty: neither. See
	// https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md.
	Config string
	Log    *slog.Logger
	// Version is a label of ublk_remap_build_info.
	Version string
	// Alerts tells what the ways of alerts have done, by their names; nil: there are none.
	Alerts func() map[string]AlertCount
	// Page answers what is not /metrics; nil: nothing does. It is closed at the end.
	Page Page
}

// Page is a page for people, of package page.
type Page interface {
	http.Handler
	// Observe is told what was asked for a scrape. err says that some devices may be missing.
	Observe(all []*control.Status, err error)
	// Close ends what is being sent, which may take as long as its reader wants otherwise.
	Close()
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
	for _, c := range append([]prometheus.Collector{newCollector(source), info,
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

// observed is a source that also tells a page what it says.
func observed(source Source, p Page) Source {
	return func(ctx context.Context) ([]Device, error) {
		all, err := source(ctx)
		statuses := make([]*control.Status, len(all))
		for i := range all {
			statuses[i] = all[i].Status
		}
		p.Observe(statuses, err)
		return all, err
	}
}

// handlerOf answers all that is served.
func handlerOf(source Source, o *Options) (http.Handler, error) {
	var more []prometheus.Collector
	if o.Alerts != nil {
		more = append(more, newAlerts(o.Alerts))
	}
	if o.Page != nil {
		source = observed(source, o.Page)
	}
	h, err := Handler(source, o.Version, more...)
	if err != nil {
		return nil, err
	}
	if o.Page != nil {
		mux := http.NewServeMux()
		mux.Handle("/metrics", h)
		mux.Handle("/", o.Page)
		h = mux
	}
	if o.Config == "" {
		h = ownNames(h)
	}
	return h, nil
}

// Serve answers requests that come by these listeners until ctx ends. It closes them.
func Serve(ctx context.Context, source Source, listeners []net.Listener, o Options) error {
	defer func() {
		for _, l := range listeners {
			_ = l.Close()
		}
	}()
	h, err := handlerOf(source, &o)
	if err != nil {
		return err
	}
	if o.Page != nil {
		defer o.Page.Close()
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: headerTime,
		WriteTimeout: scrapeTime + 2*headerTime}
	stopped := context.AfterFunc(ctx, func() {
		if o.Page != nil {
			o.Page.Close()
		}
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), headerTime)
		defer cancel()
		_ = s.Shutdown(end)
	})
	defer stopped()
	err = web.ServeMultiple(listeners, s, &web.FlagConfig{WebConfigFile: &o.Config}, o.Log)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
