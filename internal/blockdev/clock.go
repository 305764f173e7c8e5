package blockdev

import "time"

// started is what Monotonic counts from.
var started = time.Now()

// Monotonic returns a time in nanoseconds that never goes back.
func (d *Device) Monotonic() int64 { return int64(time.Since(started)) }

// Pause waits between two tries of something that the device cannot do at the moment.
func (d *Device) Pause(t time.Duration) { time.Sleep(t) }
