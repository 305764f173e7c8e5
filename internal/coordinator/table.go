package coordinator

import "ublkremap/metadata"

// watchTable has larger checkpoint slots made before the table is full, and tells the Arbiter what
// fits. It reports whether something goes on because of that.
func (c *Coordinator) watchTable() bool {
	if c.grower == nil {
		return false
	}
	before := c.grower.Growth()
	if c.arbiter.TableNearlyFull() {
		c.grower.Grow()
	}
	growth := c.grower.Growth()
	woken := c.arbiter.SetTable(c.grower.TableCapacity(), growth == metadata.GrowthUnderWay)
	if woken {
		c.arbiter.Advance()
	}
	return woken || growth != before
}
