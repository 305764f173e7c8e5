package ublk

import (
	"fmt"
	"strings"

	"ublkremap/ublk/internal/uapi"
)

// Features is a set of the driver's UBLK_F_* bits.
type Features uint64

// The features of ublk up to Linux 7.3. The version is the first that has it.
const (
	FeatureZeroCopy         = Features(uapi.FSupportZeroCopy)     // 6.15
	FeatureCompleteInTask   = Features(uapi.FUringCmdCompInTask)  // 6.0
	FeatureNeedGetData      = Features(uapi.FNeedGetData)         // 6.0
	FeatureRecovery         = Features(uapi.FUserRecovery)        // 6.1
	FeatureRecoveryReissue  = Features(uapi.FUserRecoveryReissue) // 6.1
	FeatureUnprivileged     = Features(uapi.FUnprivilegedDev)     // 6.3
	FeatureIoctlEncode      = Features(uapi.FCmdIoctlEncode)      // 6.4
	FeatureUserCopy         = Features(uapi.FUserCopy)            // 6.5
	FeatureZoned            = Features(uapi.FZoned)               // 6.6
	FeatureRecoveryFailIO   = Features(uapi.FUserRecoveryFailIO)  // 6.13
	FeatureUpdateSize       = Features(uapi.FUpdateSize)          // 6.16
	FeatureAutoBufReg       = Features(uapi.FAutoBufReg)          // 6.16
	FeatureQuiesce          = Features(uapi.FQuiesce)             // 6.16
	FeaturePerIODaemon      = Features(uapi.FPerIODaemon)         // 6.16
	FeatureBufRegOffDaemon  = Features(uapi.FBufRegOffDaemon)     // 6.17
	FeatureBatchIO          = Features(uapi.FBatchIO)             // 7.0
	FeatureIntegrity        = Features(uapi.FIntegrity)           // 7.0
	FeatureSafeStop         = Features(uapi.FSafeStopDev)         // 7.0
	FeatureNoAutoPartScan   = Features(uapi.FNoAutoPartScan)      // 7.0
	FeatureSharedMemoryCopy = Features(uapi.FShmemZC)             // 7.1
	FeatureDescriptorSize   = Features(uapi.FIODescSize)          // 7.3
)

// Feature describes one bit.
type Feature struct {
	Bit     Features
	Name    string
	Since   KernelVersion
	Purpose string // one line for people
}

var allFeatures = []Feature{
	{FeatureZeroCopy, "zero copy", KernelVersion{6, 15, 0}, "request pages as registered buffers"},
	{FeatureCompleteInTask, "completion in task", KernelVersion{6, 0, 0},
		"commands complete by io_uring task work"},
	{FeatureNeedGetData, "need get data", KernelVersion{6, 0, 0},
		"write data is fetched by a second command"},
	{FeatureRecovery, "user recovery", KernelVersion{6, 1, 0}, "the device outlives its server"},
	{FeatureRecoveryReissue, "recovery with reissue", KernelVersion{6, 1, 0},
		"requests of a dead server go to the next one"},
	{FeatureUnprivileged, "unprivileged devices", KernelVersion{6, 3, 0}, "devices of other users"},
	{FeatureIoctlEncode, "ioctl encoding", KernelVersion{6, 4, 0}, "commands have ioctl numbers"},
	{FeatureUserCopy, "user copy", KernelVersion{6, 5, 0},
		"the server copies with pread and pwrite"},
	{FeatureZoned, "zoned devices", KernelVersion{6, 6, 0}, "zoned storage"},
	{FeatureRecoveryFailIO, "recovery with failing I/O", KernelVersion{6, 13, 0},
		"requests fail while there is no server"},
	{FeatureUpdateSize, "size update", KernelVersion{6, 16, 0},
		"the device can be resized while live"},
	{FeatureAutoBufReg, "automatic buffer registration", KernelVersion{6, 16, 0},
		"zero copy without extra commands"},
	{FeatureQuiesce, "quiesce", KernelVersion{6, 16, 0}, "a server can be swapped on purpose"},
	{FeaturePerIODaemon, "a task per request", KernelVersion{6, 16, 0},
		"tags of one queue may have different threads"},
	{FeatureBufRegOffDaemon, "buffer registration from any task", KernelVersion{6, 17, 0},
		"buffers may be registered by other threads"},
	{FeatureBatchIO, "batch I/O", KernelVersion{7, 0, 0}, "commands for many requests at once"},
	{FeatureIntegrity, "integrity data", KernelVersion{7, 0, 0}, "protection information"},
	{FeatureSafeStop, "safe stop", KernelVersion{7, 0, 0},
		"stop only if nobody has the device open"},
	{FeatureNoAutoPartScan, "no partition scan", KernelVersion{7, 0, 0},
		"partitions are not looked for at start"},
	{FeatureSharedMemoryCopy, "shared memory zero copy", KernelVersion{7, 1, 0},
		"clients share memory with the server"},
	{FeatureDescriptorSize, "descriptor size", KernelVersion{7, 3, 0},
		"larger request descriptors"},
}

// AllFeatures lists every feature known to this package, in the order of their bits.
func AllFeatures() []Feature { return append([]Feature(nil), allFeatures...) }

// Has reports whether all of want are in f.
func (f Features) Has(want Features) bool { return f&want == want }

// String names the features, separated by commas; unknown bits appear as a number.
func (f Features) String() string {
	if f == 0 {
		return "none"
	}
	var names []string
	for _, d := range allFeatures {
		if f.Has(d.Bit) {
			names = append(names, d.Name)
			f &^= d.Bit
		}
	}
	if f != 0 {
		names = append(names, fmt.Sprintf("%#x", uint64(f)))
	}
	return strings.Join(names, ", ")
}

// Require returns an *UnsupportedFeatureError for the first of want that is not in f, or nil.
func (f Features) Require(want Features) error {
	missing := want &^ f
	if missing == 0 {
		return nil
	}
	for _, d := range allFeatures {
		if missing.Has(d.Bit) {
			return &UnsupportedFeatureError{Name: d.Name, MinimumVersion: d.Since}
		}
	}
	return &UnsupportedFeatureError{Name: missing.String()}
}
