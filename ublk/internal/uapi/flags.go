package uapi

// Device features, as in CtrlDevInfo.Flags and the answer to CmdGetFeatures. Header: UBLK_F_*.
const (
	FSupportZeroCopy     uint64 = 1 << 0
	FUringCmdCompInTask  uint64 = 1 << 1
	FNeedGetData         uint64 = 1 << 2
	FUserRecovery        uint64 = 1 << 3
	FUserRecoveryReissue uint64 = 1 << 4
	FUnprivilegedDev     uint64 = 1 << 5
	FCmdIoctlEncode      uint64 = 1 << 6
	FUserCopy            uint64 = 1 << 7
	FZoned               uint64 = 1 << 8
	FUserRecoveryFailIO  uint64 = 1 << 9
	FUpdateSize          uint64 = 1 << 10
	FAutoBufReg          uint64 = 1 << 11
	FQuiesce             uint64 = 1 << 12
	FPerIODaemon         uint64 = 1 << 13
	FBufRegOffDaemon     uint64 = 1 << 14
	FBatchIO             uint64 = 1 << 15
	FIntegrity           uint64 = 1 << 16
	FSafeStopDev         uint64 = 1 << 17
	FNoAutoPartScan      uint64 = 1 << 18
	FShmemZC             uint64 = 1 << 19
	FIODescSize          uint64 = 1 << 20
	ShmemBufReadOnly     uint32 = 1 << 0 // UBLK_SHMEM_BUF_READ_ONLY
	AutoBufRegFallback   uint8  = 1 << 0 // UBLK_AUTO_BUF_REG_FALLBACK
	BatchHasZoneLBA      uint16 = 1 << 0 // UBLK_BATCH_F_HAS_ZONE_LBA
	BatchHasBufAddr      uint16 = 1 << 1 // UBLK_BATCH_F_HAS_BUF_ADDR
	BatchAutoBufFallback uint16 = 1 << 2 // UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK
	ShmemZCOffsetMask    uint64 = 0xffffffff
	ShmemZCIndexShift           = 32
	ShmemZCIndexMask     uint64 = 0xffff
	MinSegmentSize       uint32 = 4096 // UBLK_MIN_SEGMENT_SIZE
)

// Device states, CtrlDevInfo.State. Header: UBLK_S_DEV_*.
const (
	StateDead     uint16 = 0
	StateLive     uint16 = 1
	StateQuiesced uint16 = 2
	StateFailIO   uint16 = 3
)

// Operations, the low eight bits of IODesc.OpFlags. Header: UBLK_IO_OP_*.
const (
	OpRead         uint8 = 0
	OpWrite        uint8 = 1
	OpFlush        uint8 = 2
	OpDiscard      uint8 = 3
	OpWriteSame    uint8 = 4
	OpWriteZeroes  uint8 = 5
	OpZoneOpen     uint8 = 10
	OpZoneClose    uint8 = 11
	OpZoneFinish   uint8 = 12
	OpZoneAppend   uint8 = 13
	OpZoneResetAll uint8 = 14
	OpZoneReset    uint8 = 15
	OpReportZones  uint8 = 18

	OpMask uint32 = 0xff
)

// Flags of an operation, tested against the whole, unshifted IODesc.OpFlags. Header: UBLK_IO_F_*.
const (
	IOFailfastDev       uint32 = 1 << 8
	IOFailfastTransport uint32 = 1 << 9
	IOFailfastDriver    uint32 = 1 << 10
	IOMeta              uint32 = 1 << 11
	IOFUA               uint32 = 1 << 13
	IONoUnmap           uint32 = 1 << 15
	IOSwap              uint32 = 1 << 16
	IONeedRegBuf        uint32 = 1 << 17
	IOIntegrity         uint32 = 1 << 18
	IOShmemZC           uint32 = 1 << 19
)

// Attributes, ParamBasic.Attrs. Header: UBLK_ATTR_*.
const (
	AttrReadOnly      uint32 = 1 << 0
	AttrRotational    uint32 = 1 << 1
	AttrVolatileCache uint32 = 1 << 2
	AttrFUA           uint32 = 1 << 3
)

// Parameter groups, Params.Types. Header: UBLK_PARAM_TYPE_*.
const (
	ParamTypeBasic     uint32 = 1 << 0
	ParamTypeDiscard   uint32 = 1 << 1
	ParamTypeDevt      uint32 = 1 << 2
	ParamTypeZoned     uint32 = 1 << 3
	ParamTypeDMAAlign  uint32 = 1 << 4
	ParamTypeSegment   uint32 = 1 << 5
	ParamTypeIntegrity uint32 = 1 << 6
)
