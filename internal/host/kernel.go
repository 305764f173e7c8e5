package host

import (
	"context"
	"fmt"

	"ublkremap/internal/control"
	"ublkremap/ublk"
)

// DeviceOf asks the kernel for the device that a record names. The error is ublk.ErrNotFound if it
// does not exist any more, or if another device has its number now.
func DeviceOf(ctx context.Context, ctl *ublk.Control, r *control.Record) (ublk.DeviceInfo, error) {
	info, err := ctl.Info(ctx, r.ID)
	if err != nil {
		return info, err
	}
	p, err := ctl.GetParams(ctx, r.ID)
	if err != nil {
		return info, err
	}
	served := info.PID <= 0 || info.PID == r.PID || info.PID == r.PreviousPID
	if info.Tag != 0 {
		// Two disks of one size can both have had this number.
		served = served && info.Tag == TagOf(r.UUID)
	}
	if !served || p.Size != int64(r.Blocks)*int64(r.BlockSize) ||
		int(p.LogicalBlockSize) != r.BlockSize {
		return info, fmt.Errorf("%w: %s belongs to somebody else now", ublk.ErrNotFound, r.Device)
	}
	return info, nil
}
