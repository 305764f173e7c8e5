package monitor

import (
	"context"
	"time"

	"ublkremap/internal/control"
)

// askTime is how long each server may take.
const askTime = 2 * time.Second

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
	var asked []*Device
	for i, st := range all {
		devices[i].Status = st
		if answered(st) {
			asked = append(asked, &devices[i])
		}
	}
	control.Each(len(asked), func(i int) {
		// A server that is too old, or that ends at this moment, has none.
		if l, err := ask(ctx, asked[i].Status.Name); err == nil {
			asked[i].Latencies = l
		}
	})
	return devices
}
