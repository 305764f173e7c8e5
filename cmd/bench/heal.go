package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ublkremap/bench/peer"
	"ublkremap/bench/result"
	"ublkremap/internal/blockdev"
	"ublkremap/metadata"
)

// maxHeals is how many bad places are made: null_blk keeps at most 512 ranges.
const maxHeals = 400

// allHeals measures how long a write takes that meets a bad block, until the block lives in the
// spare region and its record is durable on the disk.
func (b *bench) allHeals(ctx context.Context, queues int) error {
	for _, p := range b.o.makePeers() {
		if p.Kind != peer.Remap {
			continue
		}
		h, err := b.heals(ctx, p, queues)
		if errors.Is(err, peer.ErrUnavailable) {
			b.res.Missing = append(b.res.Missing, fmt.Sprintf("heals of %s: %v", p.Name, err))
			continue
		}
		if err != nil {
			return err
		}
		b.res.Heals = append(b.res.Heals, h)
		if _, known := b.res.Peer(p.Name); !known {
			b.res.Peers = append(b.res.Peers, p)
		}
		_, _ = fmt.Fprintf(b.out, "heal %-10s median %.0f µs, a plain write %.0f µs\n", p.Name,
			result.Quantile(result.Micros(h.Healed), 0.5), result.Quantile(result.Micros(h.Plain),
				0.5))
	}
	return nil
}

func (b *bench) heals(ctx context.Context, p peer.Peer, queues int) (h result.Heals, err error) {
	h.Peer = p.Name
	// On a machine that stops for a moment, good neighbours of a bad block would also count as bad.
	p.Flags = append([]string{"--isolate-time=10m"}, p.Flags...)
	size := b.o.mib << 20
	v, err := peer.Make(ctx, p, peer.Disk{BlockSize: b.o.block, Queues: queues, Depth: b.o.depth},
		size)
	if err != nil {
		return h, err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	if err := v.Fill(ctx, size); err != nil {
		return h, err
	}
	head, err := v.Head(ctx)
	if err != nil {
		return h, err
	}
	// At offsets that are the same on the device and on the disk, evenly spread over the device,
	// with a good unit before each.
	step := (size - head) / int64(b.o.heals) / metadata.UnitSize * metadata.UnitSize
	for i := range int64(b.o.heals) {
		if err := v.Disk.AddBad((head+i*step+metadata.UnitSize)/512,
			metadata.UnitSize/512); err != nil {
			return h, err
		}
	}
	d, err := blockdev.Open(ctx, v.Path, blockdev.Options{})
	if err != nil {
		return h, err
	}
	defer d.Close()
	buf := metadata.AlignedBytes(metadata.UnitSize)
	timed := func(off int64) (int64, error) {
		begin := time.Now()
		_, err := d.WriteAt(buf, off)
		return time.Since(begin).Nanoseconds(), err
	}
	for i := range int64(b.o.heals) {
		plain, err1 := timed(head + i*step)
		healed, err2 := timed(head + i*step + metadata.UnitSize)
		if err := errors.Join(err1, err2); err != nil {
			return h, fmt.Errorf("%s: heal %d: %w", p.Name, i, err)
		}
		h.Plain, h.Healed = append(h.Plain, plain), append(h.Healed, healed)
	}
	return h, v.WantRemaps(ctx, int64(b.o.heals))
}
