// Package attention says in words what is with a device, how bad that is and what to do next. The
// page for browsers, top, status and check say what it says, so that they agree.
//
// It judges by the status of the device, in which package host has noted disks that are gone, and
// the monitor's alerts that are there ([control.Status.Alerts]). An alert that the status does not
// explain by itself, because it is about what happened within a time, is a [Point] of its own. So
// no device is well while an alert about it is there.
//
// It does no I/O.
package attention
