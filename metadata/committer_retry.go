package metadata

// A mirror that could not be written is retried after a number of records (backoffRecords). On an
// idle device no records come. So a driver that has a clock lets time count too, by BackedOff and
// RetryNow. The clock needs to run only while BackedOff is true.

// BackedOff reports whether a mirror is to be written again but waits for more records
// first. It is false while a checkpoint is under way or the Committer waits for Resume.
func (c *Committer) BackedOff() bool {
	if c.phase != phaseOpen || c.suspended || c.ck.active() {
		return false
	}
	for i := range c.mirrors {
		if m := &c.mirrors[i]; c.records < m.notBefore && c.wantsCheckpoint(m) {
			return true
		}
	}
	return false
}

// RetryNow ends the waiting of all mirrors; Ops returns what follows. A mirror that fails
// again waits for longer, as before.
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
