package uapi

import (
	"structs"
	"unsafe"
)

// CtrlCmd is struct ublksrv_ctrl_cmd, carried in the second half of a 128-byte SQE (from byte 48).
type CtrlCmd struct {
	_          structs.HostLayout
	DevID      uint32
	QueueID    uint16
	Len        uint16
	Addr       uint64
	Data       uint64
	DevPathLen uint16
	Pad        uint16
	Reserved   uint32
}

// CtrlDevInfo is struct ublksrv_ctrl_dev_info.
type CtrlDevInfo struct {
	_             structs.HostLayout
	NrHWQueues    uint16
	QueueDepth    uint16
	State         uint16
	IODescSize    uint16
	MaxIOBufBytes uint32
	DevID         uint32
	PID           int32
	Pad1          uint32
	Flags         uint64
	ServerFlags   uint64
	OwnerUID      uint32
	OwnerGID      uint32
	Reserved1     uint64
	Reserved2     uint64
}

// IODesc is struct ublksrv_io_desc, written by the kernel, one per tag, in the mapping of
// /dev/ublkcN.
type IODesc struct {
	_           structs.HostLayout
	OpFlags     uint32
	NrSectors   uint32
	StartSector uint64
	Addr        uint64
}

// IOCmd is struct ublksrv_io_cmd, carried at byte 48 of a plain SQE.
type IOCmd struct {
	_      structs.HostLayout
	QID    uint16
	Tag    uint16
	Result int32
	Addr   uint64
}

// AutoBufReg is struct ublk_auto_buf_reg, carried in the addr field of a fetch's SQE.
type AutoBufReg struct {
	_         structs.HostLayout
	Index     uint16
	Flags     uint8
	Reserved0 uint8
	Reserved1 uint32
}

// SQEAddr is ublk_auto_buf_reg_to_sqe_addr.
func (r AutoBufReg) SQEAddr() uint64 {
	return uint64(r.Index) | uint64(r.Flags)<<16 | uint64(r.Reserved0)<<24 | uint64(r.Reserved1)<<32
}

// ElemHeader is struct ublk_elem_header, one request in the buffer of a batch command.
type ElemHeader struct {
	_        structs.HostLayout
	Tag      uint16
	BufIndex uint16
	Result   int32
}

// BatchIO is struct ublk_batch_io.
type BatchIO struct {
	_         structs.HostLayout
	QID       uint16
	Flags     uint16
	NrElem    uint16
	ElemBytes uint8
	Reserved  uint8
	Reserved2 uint64
}

// ShmemBufReg is struct ublk_shmem_buf_reg, what CmdRegBuf points to.
type ShmemBufReg struct {
	_        structs.HostLayout
	Addr     uint64
	Len      uint64
	Flags    uint32
	Reserved uint32
}

// ParamBasic is struct ublk_param_basic. The shifts are log2 of bytes, sectors are of 512 bytes.
type ParamBasic struct {
	_                structs.HostLayout
	Attrs            uint32
	LogicalBSShift   uint8
	PhysicalBSShift  uint8
	IOOptShift       uint8
	IOMinShift       uint8
	MaxSectors       uint32
	ChunkSectors     uint32
	DevSectors       uint64
	VirtBoundaryMask uint64
}

// ParamDiscard is struct ublk_param_discard.
type ParamDiscard struct {
	_                     structs.HostLayout
	Alignment             uint32
	Granularity           uint32
	MaxDiscardSectors     uint32
	MaxWriteZeroesSectors uint32
	MaxDiscardSegments    uint16
	Reserved0             uint16
}

// ParamDevt is struct ublk_param_devt.
type ParamDevt struct {
	_         structs.HostLayout
	CharMajor uint32
	CharMinor uint32
	DiskMajor uint32
	DiskMinor uint32
}

// ParamZoned is struct ublk_param_zoned.
type ParamZoned struct {
	_                    structs.HostLayout
	MaxOpenZones         uint32
	MaxActiveZones       uint32
	MaxZoneAppendSectors uint32
	Reserved             [20]uint8
}

// ParamDMAAlign is struct ublk_param_dma_align. Alignment is a mask: bytes minus one.
type ParamDMAAlign struct {
	_         structs.HostLayout
	Alignment uint32
	Pad       [4]uint8
}

// ParamSegment is struct ublk_param_segment.
type ParamSegment struct {
	_               structs.HostLayout
	SegBoundaryMask uint64
	MaxSegmentSize  uint32
	MaxSegments     uint16
	Pad             [2]uint8
}

// ParamIntegrity is struct ublk_param_integrity.
type ParamIntegrity struct {
	_                    structs.HostLayout
	Flags                uint32
	MaxIntegritySegments uint16
	IntervalExp          uint8
	MetadataSize         uint8
	PIOffset             uint8
	CsumType             uint8
	TagSize              uint8
	Pad                  [5]uint8
}

// Params is struct ublk_params. Len is the size its sender knows; the kernel takes what it
// knows of it.
type Params struct {
	_         structs.HostLayout
	Len       uint32
	Types     uint32
	Basic     ParamBasic
	Discard   ParamDiscard
	Devt      ParamDevt
	Zoned     ParamZoned
	DMA       ParamDMAAlign
	Seg       ParamSegment
	Integrity ParamIntegrity
}

// Sizes and offsets that the kernel counts on. Those of the header were read with a C compiler.
var (
	_ [32]byte  = [unsafe.Sizeof(CtrlCmd{})]byte{}
	_ [64]byte  = [unsafe.Sizeof(CtrlDevInfo{})]byte{}
	_ [24]byte  = [unsafe.Sizeof(IODesc{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(IOCmd{})]byte{}
	_ [8]byte   = [unsafe.Sizeof(AutoBufReg{})]byte{}
	_ [8]byte   = [unsafe.Sizeof(ElemHeader{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(BatchIO{})]byte{}
	_ [24]byte  = [unsafe.Sizeof(ShmemBufReg{})]byte{}
	_ [32]byte  = [unsafe.Sizeof(ParamBasic{})]byte{}
	_ [20]byte  = [unsafe.Sizeof(ParamDiscard{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(ParamDevt{})]byte{}
	_ [32]byte  = [unsafe.Sizeof(ParamZoned{})]byte{}
	_ [8]byte   = [unsafe.Sizeof(ParamDMAAlign{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(ParamSegment{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(ParamIntegrity{})]byte{}
	_ [152]byte = [unsafe.Sizeof(Params{})]byte{}

	_ [8]byte  = [unsafe.Offsetof(CtrlCmd{}.Addr)]byte{}
	_ [24]byte = [unsafe.Offsetof(CtrlCmd{}.DevPathLen)]byte{}
	_ [24]byte = [unsafe.Offsetof(CtrlDevInfo{}.Flags)]byte{}
	_ [16]byte = [unsafe.Offsetof(CtrlDevInfo{}.PID)]byte{}
	_ [8]byte  = [unsafe.Offsetof(IODesc{}.StartSector)]byte{}
	_ [4]byte  = [unsafe.Offsetof(IOCmd{}.Result)]byte{}
	_ [8]byte  = [unsafe.Offsetof(Params{}.Basic)]byte{}
	_ [40]byte = [unsafe.Offsetof(Params{}.Discard)]byte{}
	_ [60]byte = [unsafe.Offsetof(Params{}.Devt)]byte{}
	_ [76]byte = [unsafe.Offsetof(Params{}.Zoned)]byte{}
)

var (
	_ [108]byte = [unsafe.Offsetof(Params{}.DMA)]byte{}
	_ [120]byte = [unsafe.Offsetof(Params{}.Seg)]byte{}
	_ [136]byte = [unsafe.Offsetof(Params{}.Integrity)]byte{}
)
