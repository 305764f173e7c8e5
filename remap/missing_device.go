package remap

// This file distinguishes a missing device from one that fails. The errors of a missing disk
// differ. A deleted SCSI disk, for example, has no size any more: reads return 0 bytes and writes
// ENOSPC. These are not medium errors and would never open the breaker.

// CheckDevices opens the breaker if a device is missing. A driver may call it at any time, also if
// nothing has failed, for example to answer a request for the status.
func (a *Arbiter) CheckDevices() {
	for d := range a.geo.Devices {
		a.checkDevice(uint8(d))
	}
}

// checkDevice opens the breaker if a device is missing. The request for the check then
// stays set, so that the engines request it only once.
func (a *Arbiter) checkDevice(device uint8) {
	why := a.drv.Missing(device)
	if why == "" {
		a.shared.checkRequested.And(^(uint32(1) << device))
		return
	}
	if a.shared.Tripped() {
		a.reason, a.kind = why, TripMissing // the operator needs to know this
		return
	}
	a.trip(TripMissing, why)
}

// missing returns why one of the devices is missing; empty if none is.
func (a *Arbiter) missing() string {
	for d := range a.geo.Devices {
		if why := a.drv.Missing(uint8(d)); why != "" {
			return why
		}
	}
	return ""
}

// tripFor opens the breaker for a failure of a device. If a device is missing, that is the reason.
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
