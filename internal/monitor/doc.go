// Package monitor tells Prometheus about the devices of a host.
//
// One scrape asks every server once, through package host. Each file metrics_*.go has the metrics
// of one subject: it registers a family of metrics, and says how they follow from a
// [control.Status]. A new subject is one more such file.
//
// Names and units follow https://prometheus.io/docs/practices/naming. Counters count from the start
// of a device's server, so they begin anew at an upgrade, as Prometheus expects of any process.
package monitor
