package coordinator

import "ublkremap/metadata"

// watchTable has larger checkpoint slots made before the table is full, and tells the Arbiter what
// fits. It reports whether something goes on because of that.
func (c *Coordinator) watchTable() bool {
	if c.grower == nil {
		return false
	}
	before := c.grower.Growth()
	switch {
	case c.end.step != endNone:
		c.grower.StopGrowing()
	case c.arbiter.TableNearlyFull():
		c.grower.Grow()
	}
	growth := c.grower.Growth()
	woken := c.arbiter.SetTable(c.grower.TableCapacity(),
		growth == metadata.GrowthUnderWay || growth == metadata.GrowthNone)
	if woken {
		c.arbiter.Advance()
	}
	return woken || growth != before
}

// TableGrowth says what is being done about a table that fills, and how many entries it may have.
// It allocates nothing.
func (c *Coordinator) TableGrowth() (metadata.Growth, uint64) {
	if c.grower == nil {
		return metadata.GrowthNone, 0
	}
	return c.grower.Growth(), c.grower.TableCapacity()
}
