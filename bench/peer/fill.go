package peer

import (
	"context"
	"encoding/binary"
	"fmt"

	"ublkremap/internal/blockdev"
	"ublkremap/metadata"
)

// Fill writes the first n bytes of the device, so that its disk has them in memory and
// reads move data.
func (v *Device) Fill(ctx context.Context, n int64) error {
	d, err := blockdev.Open(ctx, v.Path, blockdev.Options{Wait: limit})
	if err != nil {
		return fmt.Errorf("%s: %w", v.Peer.Name, err)
	}
	defer d.Close()
	if d.Size() < n {
		return fmt.Errorf("%s: %s has %d bytes, %d are to be used", v.Peer.Name, v.Path, d.Size(),
			n)
	}
	buf := metadata.AlignedBytes(1 << 20)
	for off := int64(0); off < n; off += int64(len(buf)) {
		part := buf[:min(int64(len(buf)), n-off)]
		for i := 0; i+8 <= len(part); i += 8 {
			binary.LittleEndian.PutUint64(part[i:], uint64(off)+uint64(i))
		}
		if _, err := d.WriteAt(part, off); err != nil {
			return fmt.Errorf("%s: %w", v.Peer.Name, err)
		}
	}
	return d.Sync()
}
