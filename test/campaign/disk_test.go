package campaign

import (
	"math/rand/v2"
	"testing"

	"ublkremap/test/rig"
)

// diskMiB is the size of a disk: xfs wants 300 MiB.
const diskMiB = 384

// newDisk makes a disk of either kind whose writes fail where it is bad.
func newDisk(t *testing.T, rng *rand.Rand) *rig.Disk {
	t.Helper()
	kind := []rig.Kind{rig.KindLoop, rig.KindNull}[rng.IntN(2)]
	return rig.NewDisk(t, kind, diskMiB, []int64{512, 4096}[rng.IntN(2)])
}

// pick chooses n places of 1 to 12 blocks in extents of the exported device, and
// returns where they are on the disk.
func pick(rng *rand.Rand, lay rig.Layout, blockSize int64, in []rig.Extent, n int) []rig.Extent {
	var out []rig.Extent
	for range n {
		e := in[rng.IntN(len(in))]
		length := min(blockSize*(1+rng.Int64N(12)), e.Length)
		start := e.Start + rng.Int64N((e.Length-length)/blockSize+1)*blockSize
		out = append(out, lay.HomesOnBacking(rig.At(start, length))...)
	}
	return out
}
