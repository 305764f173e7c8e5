package metadata

// A mirror that could not be written is tried again after a number of records
// (backoffRecords). On an idle device none come. Whoever has a clock lets the time count
// too, by BackedOff and RetryNow; it needs to run only while BackedOff says so.

// BackedOff reports whether a mirror is to be written again, and waits for more records
// first. While a checkpoint is under way, or the Committer waits for Resume, none is.
func (c *Committer) BackedOff() bool {
	if c.phase != phaseOpen || c.suspended || c.ck.active {
		return false
	}
	for i := range c.mirrors {
		if m := &c.mirrors[i]; c.records < m.notBefore && c.wantsCheckpoint(m) {
			return true
		}
	}
	return false
}

// RetryNow ends the waiting of all mirrors; Ops has what comes of it. What fails again
// waits for longer, as before.
func (c *Committer) RetryNow() {
	if !c.BackedOff() {
		return
	}
	for i := range c.mirrors {
		c.mirrors[i].notBefore = 0
	}
}

// wantsCheckpoint reports whether a mirror is a reason to write a checkpoint.
func (c *Committer) wantsCheckpoint(m *mirror) bool {
	switch m.state {
	case MirrorStale, MirrorWeak:
		return true
	}
	return m.cover.Less(c.collected.Position) && 2*m.used >= len(m.slots) || m.dirty != 0
}
