package uapi

import "unsafe"

// ioctl encodings, asm-generic/ioctl.h.
const (
	iocWrite = 1
	iocRead  = 2

	iocTypeShift = 8
	iocSizeShift = 16
	iocDirShift  = 30
)

const ublkType = 'u'

const (
	ctrlR = iocRead<<iocDirShift | uint32(
		unsafe.Sizeof(CtrlCmd{}))<<iocSizeShift | ublkType<<iocTypeShift
	ctrlWR = iocWrite<<iocDirShift | ctrlR

	ioWR = (iocRead|iocWrite)<<iocDirShift | uint32(
		unsafe.Sizeof(IOCmd{}))<<iocSizeShift | ublkType<<iocTypeShift

	batchWR = (iocRead|iocWrite)<<iocDirShift | uint32(
		unsafe.Sizeof(BatchIO{}))<<iocSizeShift | ublkType<<iocTypeShift
)

// Control commands, sent with IORING_OP_URING_CMD to /dev/ublk-control. Header: UBLK_U_CMD_*.
const (
	CmdGetQueueAffinity  = ctrlR | 0x01
	CmdGetDevInfo        = ctrlR | 0x02
	CmdAddDev            = ctrlWR | 0x04
	CmdDelDev            = ctrlWR | 0x05
	CmdStartDev          = ctrlWR | 0x06
	CmdStopDev           = ctrlWR | 0x07
	CmdSetParams         = ctrlWR | 0x08
	CmdGetParams         = ctrlR | 0x09
	CmdStartUserRecovery = ctrlWR | 0x10
	CmdEndUserRecovery   = ctrlWR | 0x11
	CmdGetDevInfo2       = ctrlR | 0x12
	CmdGetFeatures       = ctrlR | 0x13
	CmdDelDevAsync       = ctrlR | 0x14
	CmdUpdateSize        = ctrlWR | 0x15
	CmdQuiesceDev        = ctrlWR | 0x16
	CmdTryStopDev        = ctrlWR | 0x17
	CmdRegBuf            = ctrlWR | 0x18
	CmdUnregBuf          = ctrlWR | 0x19
)

// The values above spelled out, so that a slip in the encoding does not compile.
var (
	_ [0]struct{} = [CmdGetQueueAffinity - 0x80207501]struct{}{}
	_ [0]struct{} = [CmdAddDev - 0xc0207504]struct{}{}
	_ [0]struct{} = [CmdDelDevAsync - 0x80207514]struct{}{}
	_ [0]struct{} = [IOFetchReq - 0xc0107520]struct{}{}
	_ [0]struct{} = [IOPrepIOCmds - 0xc0107525]struct{}{}
)

// FeaturesLen is the size in bytes of the word that CmdGetFeatures fills. Header:
// UBLK_FEATURES_LEN.
const FeaturesLen = 8

// QueueIDNone is the queue id of a control command that is not about a queue. Header:
// struct ublksrv_ctrl_cmd.
const QueueIDNone = 0xffff

// Commands of one request, sent with IORING_OP_URING_CMD to /dev/ublkcN. Header: UBLK_U_IO_*.
const (
	IOFetchReq          = ioWR | 0x20
	IOCommitAndFetchReq = ioWR | 0x21
	IONeedGetData       = ioWR | 0x22
	IORegisterIOBuf     = ioWR | 0x23
	IOUnregisterIOBuf   = ioWR | 0x24
	IOPrepIOCmds        = batchWR | 0x25
	IOCommitIOCmds      = batchWR | 0x26
	IOFetchIOCmds       = batchWR | 0x27
)

// Results of a fetch. Header: UBLK_IO_RES_*.
const (
	IOResOK          = 0
	IOResNeedGetData = 1
	IOResAbort       = -19 // -ENODEV: the command is not fetched again
)

// Offsets in /dev/ublkcN and limits. Header: UBLKSRV_CMD_BUF_OFFSET … UBLKSRV_IO_INTEGRITY_FLAG.
const (
	CmdBufOffset  = 0
	IOBufOffset   = 0x80000000
	MaxQueueDepth = 4096

	IOBufOff      = 0
	IOBufBits     = 25
	IOBufBitsMask = 1<<IOBufBits - 1

	TagOff      = IOBufBits
	TagBits     = 16
	TagBitsMask = 1<<TagBits - 1

	QIDOff      = TagOff + TagBits
	QIDBits     = 12
	QIDBitsMask = 1<<QIDBits - 1

	MaxQueues = 1 << QIDBits

	IOBufTotalBits = QIDOff + QIDBits
	IOBufTotalSize = 1 << IOBufTotalBits

	IntegrityFlagOff = 62
	IOIntegrityFlag  = 1 << IntegrityFlagOff
)
