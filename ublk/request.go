package ublk

import (
	"fmt"

	"ublkremap/ublk/internal/uapi"
)

// SectorSize is the unit of all sector numbers here and in the kernel's block layer,
// whatever the block size, in bytes.
const SectorSize = 512

// An Op is what a request asks for.
type Op uint8

// The operations of a device that is not zoned.
const (
	OpRead        = Op(uapi.OpRead)
	OpWrite       = Op(uapi.OpWrite)
	OpFlush       = Op(uapi.OpFlush)
	OpDiscard     = Op(uapi.OpDiscard)
	OpWriteSame   = Op(uapi.OpWriteSame)
	OpWriteZeroes = Op(uapi.OpWriteZeroes)
)

// String names the operation.
func (o Op) String() string {
	switch o {
	case OpRead:
		return "read"
	case OpWrite:
		return "write"
	case OpFlush:
		return "flush"
	case OpDiscard:
		return "discard"
	case OpWriteSame:
		return "write same"
	case OpWriteZeroes:
		return "write zeroes"
	}
	return fmt.Sprintf("operation %d", uint8(o))
}

// hasData reports whether requests of this kind carry data, so that their answer is a length.
func (o Op) hasData() bool { return o == OpRead || o == OpWrite }

// RequestFlags are the flags of a request: bits 8 and up of the descriptor's word.
type RequestFlags uint32

// The flags that a server may care for.
const (
	FlagFailfastDevice    = RequestFlags(uapi.IOFailfastDev)
	FlagFailfastTransport = RequestFlags(uapi.IOFailfastTransport)
	FlagFailfastDriver    = RequestFlags(uapi.IOFailfastDriver)
	FlagMeta              = RequestFlags(uapi.IOMeta)
	FlagFUA               = RequestFlags(uapi.IOFUA)     // durable before it is answered
	FlagNoUnmap           = RequestFlags(uapi.IONoUnmap) // write zeroes: do not deallocate
	FlagSwap              = RequestFlags(uapi.IOSwap)
)

// A Request is one request of the device, as the block layer made it.
type Request struct {
	Tag         uint16 // names the request until Queue.Done; below the queue's depth
	Op          Op
	Flags       RequestFlags
	StartSector uint64 // in sectors of 512 bytes; 0 for a flush
	Sectors     uint32 // in sectors of 512 bytes; 0 for a flush
}

// FUA reports whether a write must be durable before it is answered.
func (r Request) FUA() bool { return r.Flags&FlagFUA != 0 }

// Offset is the start in bytes.
func (r Request) Offset() int64 { return int64(r.StartSector) * SectorSize }

// Length is the length in bytes. A discard or write-zeroes can be longer than 4 GiB.
func (r Request) Length() int64 { return int64(r.Sectors) * SectorSize }
