package main

import (
	"cmp"
	"context"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ublkremap/internal/alert"
	"ublkremap/internal/control"
	"ublkremap/internal/host"
	"ublkremap/internal/page"
	"ublkremap/metadata"
)

// onPage are the devices of this host, for the page.
type onPage struct {
	host   host.Host
	alerts *alert.Monitor
}

// List returns the devices with records, and those that the kernel tells of.
func (o onPage) List(ctx context.Context) ([]page.Listed, error) {
	all, err := listOf(ctx, &o.host)
	list := make([]page.Listed, len(all))
	for i, l := range all {
		l.Status.Alerts = o.alerts.AlertsOf(l.Status)
		list[i] = page.Listed{Status: l.Status, Asked: l.Asked}
	}
	return list, err
}

// Status returns the status of a device that has a record.
func (o onPage) Status(ctx context.Context, name string) (*control.Status, error) {
	st, err := o.host.StatusNamed(ctx, name)
	if err == nil {
		st.Alerts = o.alerts.AlertsOf(st)
	}
	return st, err
}

// Surface asks a device's server.
func (o onPage) Surface(ctx context.Context, name string, from, to uint64,
	cells int) (*control.Surface, error) {
	return control.NewClient(name).Surface(ctx, from, to, cells)
}

// Latencies asks a device's server.
func (o onPage) Latencies(ctx context.Context, name string) (*control.Latencies, error) {
	return control.NewClient(name).LatenciesWithin(ctx, askTime)
}

// askTime is how long a server may take over its histograms.
const askTime = 2 * time.Second

// Scrub asks a device's server.
func (o onPage) Scrub(ctx context.Context, name string) (*control.ScrubStatus, error) {
	return control.NewClient(name).Scrub(ctx, control.ScrubRequest{Do: control.ScrubShow,
		Slow: true})
}

// Events asks a device's server.
func (o onPage) Events(ctx context.Context, name string, from uint64) ([]page.Event, error) {
	e, err := control.NewClient(name).Events(ctx, from)
	if err != nil {
		return nil, err
	}
	var list []page.Event
	for _, x := range metadata.AppendEvents(nil, e.Events, e.First) {
		one := page.Event{Number: x.Number, Time: x.Time(), What: x.Kind.String(),
			HasBlock: x.HasBlock, Block: x.Block, Count: x.Count, Text: x.Text()}
		if x.Errno != 0 {
			one.Errno = cmp.Or(unix.ErrnoName(syscall.Errno(x.Errno)), strconv.Itoa(int(x.Errno)))
		}
		if x.HasLatency {
			one.Latency = time.Duration(x.Latency) * time.Microsecond
		}
		if x.HasTemperature {
			one.Temperature = &x.Temperature
		}
		switch x.Kind {
		case metadata.EventRemap, metadata.EventPending:
			one.Cause = metadata.Cause(x.Done).String()
		case metadata.EventThinned:
			one.Of = metadata.EventKind(x.Detail).String()
		}
		list = append(list, one)
	}
	return list, nil
}
