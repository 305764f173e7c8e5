package blockdev

import "time"

// started is what Monotonic counts from.
var started = time.Now()

// Monotonic is a time in nanoseconds that only counts up.
func (d *Device) Monotonic() int64 { return int64(time.Since(started)) }

// Pause waits, between two tries of something that the device does not do right now.
func (d *Device) Pause(t time.Duration) { time.Sleep(t) }
