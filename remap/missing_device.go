package remap

// This file tells a device that is gone from one that fails. What a disk answers
// that was taken away differs: a SCSI disk that was deleted has no size any more, so
// that reads get 0 bytes and writes ENOSPC, which says nothing of the medium and would
// never open the breaker.

// CheckDevices opens the breaker if a device is gone. Nothing need have failed: a driver may
// call it whenever somebody asks how things are.
func (a *Arbiter) CheckDevices() {
	for d := range a.geo.Devices {
		a.checkDevice(uint8(d))
	}
}

// checkDevice opens the breaker if a device is gone. One that is stays in doubt, so that
// the engines tell of it once.
func (a *Arbiter) checkDevice(device uint8) {
	why := a.drv.Missing(device)
	if why == "" {
		a.shared.checkRequested.And(^(uint32(1) << device))
		return
	}
	if a.shared.Tripped() {
		a.reason, a.kind = why, TripMissing // that is what the operator has to know
		return
	}
	a.trip(TripMissing, why)
}

// missing says which of the devices is gone, and why; empty if none is.
func (a *Arbiter) missing() string {
	for d := range a.geo.Devices {
		if why := a.drv.Missing(uint8(d)); why != "" {
			return why
		}
	}
	return ""
}

// tripFor opens the breaker for something that happened to a device: if one is gone
// that is the reason.
func (a *Arbiter) tripFor(kind TripKind, device uint8, reason string) {
	if a.shared.Tripped() {
		return
	}
	switch why := a.missing(); {
	case why != "":
		reason, kind = why, TripMissing
	case int(device) < len(a.cfg.Names):
		reason = a.cfg.Names[device] + ": " + reason
	}
	a.trip(kind, reason)
}
