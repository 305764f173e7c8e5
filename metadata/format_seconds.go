package metadata

import (
	"math"
	"time"
)

// Seconds is a time as entries, records and superblocks keep it: seconds since 1970, in 32
// bits. A time that these cannot hold is the nearest one that they can: from 2106 on
// the last one, rather than one of 1970 again.
func Seconds(t time.Time) uint32 {
	return uint32(min(max(t.Unix(), 0), math.MaxUint32))
}
