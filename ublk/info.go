package ublk

import (
	"fmt"

	"ublkremap/ublk/internal/uapi"
)

// A State is what the kernel says of a device.
type State uint16

// The states of a device.
const (
	StateDead     = State(uapi.StateDead)     // not started yet, or stopped
	StateLive     = State(uapi.StateLive)     // served, or its server's death is not noticed yet
	StateQuiesced = State(uapi.StateQuiesced) // no server; requests wait for the next one
	StateFailIO   = State(uapi.StateFailIO)   // no server; requests fail
)

// String names the state.
func (s State) String() string {
	switch s {
	case StateDead:
		return "dead"
	case StateLive:
		return "live"
	case StateQuiesced:
		return "quiesced"
	case StateFailIO:
		return "failing I/O"
	}
	return fmt.Sprintf("state %d", uint16(s))
}

// DeviceInfo is what the kernel knows of a device besides its Params.
type DeviceInfo struct {
	ID       int
	Queues   int
	Depth    int
	MaxIO    int // largest read or write, bytes
	State    State
	PID      int // of the server that started it last; 0 before the first start
	Features Features
	OwnerUID uint32
	OwnerGID uint32
	// Tag is the server's own: what Config.Tag was when the device was made. The kernel keeps it
	// for as long as the device exists and does not use it (ublksrv_flags in the header).
	Tag uint64
}

// BlockPath is the block device, /dev/ublkbN. It exists while the device is started.
func (i DeviceInfo) BlockPath() string { return fmt.Sprintf("/dev/ublkb%d", i.ID) }

// CharPath is the server's end, /dev/ublkcN.
func (i DeviceInfo) CharPath() string { return charPath(i.ID) }

func charPath(id int) string { return fmt.Sprintf("/dev/ublkc%d", id) }

// ZeroCopy reports whether request data stays in the kernel's pages.
func (i DeviceInfo) ZeroCopy() bool { return i.Features.Has(FeatureZeroCopy | FeatureAutoBufReg) }

// BatchIO reports whether requests come and are answered many at once.
func (i DeviceInfo) BatchIO() bool { return i.Features.Has(FeatureBatchIO) }

// Recoverable reports whether the device outlives its server, with requests reissued.
func (i DeviceInfo) Recoverable() bool {
	return i.Features.Has(FeatureRecovery | FeatureRecoveryReissue)
}

func decodeInfo(k *uapi.CtrlDevInfo) DeviceInfo {
	return DeviceInfo{
		ID: int(int32(k.DevID)), Queues: int(k.NrHWQueues), Depth: int(k.QueueDepth),
		MaxIO: int(k.MaxIOBufBytes),
		State: State(k.State), PID: int(k.PID), Features: Features(k.Flags), OwnerUID: k.OwnerUID,
		OwnerGID: k.OwnerGID, Tag: k.ServerFlags,
	}
}
