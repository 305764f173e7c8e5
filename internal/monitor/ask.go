package monitor

import (
	"context"
	"sync"
	"time"

	"ublkremap/internal/control"
)

const (
	// askAtOnce is how many servers are asked at once, so that a host with hundreds of devices is
	// not kept busy by its monitor.
	askAtOnce = 16
	// askTime is how long each server may take.
	askTime = 2 * time.Second
)

// Ask asks the servers that have told their status for their histograms.
func Ask(ctx context.Context, all []*control.Status) []Device {
	return askWith(ctx, all, func(ctx context.Context, set string) (*control.Latencies, error) {
		return control.NewClient(set).LatenciesWithin(ctx, askTime)
	})
}

// askWith is Ask by another way. It ends with ctx, and leaves those out that have not answered.
func askWith(ctx context.Context, all []*control.Status,
	ask func(context.Context, string) (*control.Latencies, error)) []Device {
	devices := make([]Device, len(all))
	places := make(chan struct{}, askAtOnce)
	var asked sync.WaitGroup
	for i, st := range all {
		devices[i].Status = st
		if !answered(st) {
			continue
		}
		places <- struct{}{}
		asked.Go(func() {
			defer func() { <-places }()
			// A server that is too old, or that ends at this moment, has none.
			if l, err := ask(ctx, st.Name); err == nil {
				devices[i].Latencies = l
			}
		})
	}
	asked.Wait()
	return devices
}
