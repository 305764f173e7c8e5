package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"ublkremap/metadata"
	"ublkremap/remap"
)

// config is what one run is like. All of it comes from the seed.
type config struct {
	plan     metadata.PlanParams
	queues   int
	depth    int
	maxUnits int // the largest request, in units
	zero     int // units in the driver's zero buffer
	sink     int // units in the driver's buffer for data that nobody needs
	policy   remap.Policy
	budget   bool // the breaker's budget is small enough to be used up

	rounds    int // starts
	steps     int // of the workload, per round
	spots     int // places where requests meet
	reach     int // units on either side of such a place
	ops       int // actions of the operator, of 1000 steps
	churn     int // faults that come and go, of 1000 steps
	faults    int // at the beginning; more come while it runs
	rates     rates
	vanish    bool // whole disks vanish and return
	shortages bool // operations fail for lack of resources, all of them for a while
	trims     bool
	lossy     bool    // a flush that fails drops what the disk had cached
	noFUA     [2]bool // by disk: FUA is a write and a flush of the kernel's
	meta      metaFaults
	moves     bool // remap add and remove
	reader    int  // internal requests of each queue, of a background reader; 0: there is none
	scrub     bool // the scrub of the Coordinator reads too
	marks     bool // an operator imports lists of bad blocks
	buf       int  // relocation buffer, in units

	rearrange bool // queues and depth change between a stop or a power cut and the next start
	maxQueues int
	// All superblocks of the backing but one take writes and do not read.
	oneSuperblock bool
	probes        bool // before starts, copies of the disks are damaged and exchanged
	sparesBad     bool // most of the spare region is bad
	events        bool // there is a flight recorder
	crumble       bool // spare units in use go bad block by block
	table         bool // the table is nearly full from the beginning, and its slots are small
}

// metaFaults says what is wrong with the metadata areas. Two mirrors never lack the same record: it
// is not promised that metadata survives that.
type metaFaults uint8

const (
	metaNone   metaFaults = iota
	metaWrites            // writes fail here and there, on every mirror
	metaReads             // one mirror has sectors that take writes and do not read
	metaMirror            // one mirror takes no write at all from some time on
	metaAll               // all mirrors refuse writes for a while
	metaFlaky             // read errors in one mirror, which come and go
	// one mirror reports writes as good that never land, or land elsewhere in it
	metaLies
	metaFlips // bits flip in one mirror, and nothing says so
	metaKinds
)

var metaNames = [metaKinds]string{
	"none", "some writes fail", "latent errors in one mirror", "one mirror fails",
	"all mirrors fail for a while", "read errors in one mirror come and go",
	"one mirror loses and misdirects writes", "bits flip in one mirror",
}

// newConfig draws what a run is like. The order of the draws must not change, because it gives
// seeds their meaning.
func newConfig(rng *rand.Rand) config {
	c := config{
		queues: 1 + rng.IntN(4), depth: 1 + rng.IntN(5), maxUnits: pick(rng, []int{1, 2, 4, 8, 16}),
		rounds: 2 + rng.IntN(4), steps: 50 + rng.IntN(pick(rng, []int{200, 700, 1500})),
		spots: 1 + rng.IntN(3), faults: rng.IntN(8),
		trims: rng.IntN(2) == 0, moves: rng.IntN(2) == 0, vanish: rng.IntN(5) == 0,
		shortages: rng.IntN(6) == 0,
		buf:       2 * [...]int{1, 1, 2, 4, 32}[rng.IntN(5)],
	}
	c.zero = 1 + rng.IntN(c.maxUnits)
	c.reach = pick(rng, []int{1, 1, 2, 4, c.maxUnits + 4})
	c.ops = pick(rng, []int{10, 10, 30, 80})
	c.churn = pick(rng, []int{3, 3, 10, 30})
	c.drawPlan(rng)
	c.drawRates(rng)
	if rng.IntN(4) == 0 {
		c.contend(rng)
	}
	if c.meta.needsOther() {
		// Without this, another cause could make a mirror stale, and leave only the unreliable one.
		c.vanish, c.rates.path = false, 0
	}
	c.drawPolicy(rng)
	c.noFUA = [2]bool{rng.IntN(2) == 0, rng.IntN(2) == 0}
	if (c.noFUA[0] || c.noFUA[1]) && c.rates.flush == 0 && rng.IntN(4) == 0 {
		c.rates.flush, c.lossy = 1+rng.IntN(60), rng.IntN(4) > 0
	}
	if c.meta.needsOther() {
		// A mirror misses a record once four flushes in a row have failed. The same applies to
		// that.
		c.rates.flush = min(c.rates.flush, 20)
		// So does a shortage that outlasts the time for resources.
		c.shortages = c.shortages && c.policy.ResourceFor > shortageFor
	}
	c.rearrange, c.probes, c.maxQueues = rng.IntN(2) == 0, rng.IntN(3) == 0, 4
	if c.sparesBad = rng.IntN(12) == 0 && !c.budget; c.sparesBad {
		c.plan.SpareBytes = 200 * metadata.UnitSize
		c.vanish, c.rates.path = false, 0
	}
	if rng.IntN(3) == 0 {
		c.reader = 1 + rng.IntN(3)
	}
	c.scrub = c.plan.UUID[3]%4 == 1
	c.marks = c.plan.UUID[5]%4 == 1
	c.events = c.plan.UUID[6]%3 == 1
	c.crumble = c.plan.UUID[7]%4 == 1
	if c.plan.UUID[2]%16 == 5 {
		c.smallTable()
	}
	return c
}

// smallTable makes the table small and nearly full, so that larger slots are made. While a mirror
// gets them the others must not miss a record, and must read what they have taken.
func (c *config) smallTable() {
	if c.meta.needsOther() || c.meta == metaReads {
		return
	}
	c.table, c.plan.TableRoom = true, 1
}

// needsOther says that one mirror is unreliable, so that the others must not miss a record.
func (m metaFaults) needsOther() bool { return m == metaFlaky || m == metaLies || m == metaFlips }

// drawPlan draws the layout.
func (c *config) drawPlan(rng *rand.Rand) {
	c.plan = metadata.PlanParams{
		BlockSize: pick(rng, []int{512, 512, 1024, 4096, 4096}), Name: "sim", Created: 1,
		BackingSize: 10 << 20,
		SpareBytes:  metadata.UnitSize * int64(pick(rng, []int{3, 8, 40, 200})),
	}
	for i := range c.plan.UUID {
		c.plan.UUID[i], c.plan.DeviceUUIDs[0][i], c.plan.DeviceUUIDs[1][i] = byte(rng.Uint32()|1),
			byte(rng.Uint32()|1), byte(rng.Uint32()|1)
	}
	c.plan.BackingSize += int64(c.plan.BlockSize) * rng.Int64N(16)
	if rng.IntN(3) == 0 {
		c.plan.PhysicalBlockSize = pick(rng, []int{512, 4096, 8192})
	}
	if rng.IntN(3) == 0 {
		c.plan.SpareDeviceSize = 9<<20 + 512*rng.Int64N(16)
		c.plan.KeepTail = c.plan.UUID[0]%8 == 3 // as sets of older versions
	}
}

// drawRates draws how often operations fail, and what is wrong with the metadata areas.
func (c *config) drawRates(rng *rand.Rand) {
	if rng.IntN(4) == 0 {
		c.rates = rates{path: rng.IntN(8)}
	}
	if rng.IntN(4) == 0 {
		c.rates.resource = rng.IntN(100)
	}
	if rng.IntN(3) == 0 {
		c.rates.short = rng.IntN(200)
	}
	if rng.IntN(4) == 0 {
		c.rates.flush = rng.IntN(300)
		c.lossy = rng.IntN(2) == 0
	}
	if rng.IntN(3) == 0 {
		c.meta = metaFaults(1 + rng.IntN(int(metaKinds)-1))
	}
}

// contend makes all requests meet in one place, where nothing is reliable.
func (c *config) contend(rng *rand.Rand) {
	c.queues, c.depth, c.spots, c.reach, c.maxUnits, c.zero = 2+rng.IntN(3), 2+rng.IntN(4), 1,
		1, 1+rng.IntN(2), 1
	c.churn, c.faults = 20+rng.IntN(60), 4+rng.IntN(8)
	c.plan.SpareBytes = max(c.plan.SpareBytes, 40*metadata.UnitSize)
	c.vanish = false
}

// drawPolicy draws how often and how long operations are tried, and the breaker's budget.
func (c *config) drawPolicy(rng *rand.Rand) {
	c.policy = remap.Policy{
		Retries: 1 + rng.IntN(3), MaxBad: 1 + rng.IntN(8),
		ResourceFor: pick(rng, []time.Duration{20 * time.Millisecond, time.Second}),
		IsolateFor:  pick(rng, []time.Duration{5 * time.Millisecond, 2 * time.Second}),
		Elsewhere:   retestElsewhere + 1,
		FailFast:    pick(rng, []time.Duration{-1, 10 * time.Millisecond, time.Minute}),
	}
	c.sink = 1 + rng.IntN(c.maxUnits)
	if c.budget = rng.IntN(8) == 0; c.budget {
		c.policy.Burst, c.policy.PerSecond = uint64(1+rng.IntN(6)), uint64(1+rng.IntN(3))
		c.faults, c.churn = c.faults+8, max(c.churn, 40)
	}
}

func (c *config) String() string {
	return fmt.Sprintf("block %d, physical %d, backing %d, spare device %d, keep tail %v, spare "+
		"units %d, queues %d × %d, requests to %d units, zero buffer %d, "+
		"%d rounds of %d steps, %d spots ± %d, %d faults, operator %d, churn %d, rates %+v, "+
		"vanish %v, shortages %v, trims %v, moves %v, lossy flushes %v, no FUA %v, bad spares %v, "+
		"reader %d, scrub %v, imports %v, crumbling spares %v, small table %v, "+
		"metadata: %s, policy %+v",
		c.plan.BlockSize, c.plan.PhysicalBlockSize, c.plan.BackingSize, c.plan.SpareDeviceSize,
		c.plan.KeepTail, c.plan.SpareBytes/metadata.UnitSize, c.queues, c.depth,
		c.maxUnits, c.zero, c.rounds, c.steps, c.spots, c.reach, c.faults, c.ops, c.churn, c.rates,
		c.vanish, c.shortages, c.trims, c.moves, c.lossy, c.noFUA, c.sparesBad, c.reader, c.scrub,
		c.marks, c.crumble, c.table,
		metaNames[c.meta],
		c.policy)
}
