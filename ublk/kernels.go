package ublk

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// A KernelVersion is the first three numbers of a Linux version.
type KernelVersion struct{ Major, Minor, Patch int }

// String gives the version as people write it: 6.16, 7.0.14.
func (v KernelVersion) String() string {
	if v.Patch == 0 {
		return fmt.Sprintf("%d.%d", v.Major, v.Minor)
	}
	return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch)
}

// Compare returns -1, 0 or +1.
func (v KernelVersion) Compare(w KernelVersion) int {
	return slices.Compare([]int{v.Major, v.Minor, v.Patch}, []int{w.Major, w.Minor, w.Patch})
}

// AtLeast reports whether v is w or later.
func (v KernelVersion) AtLeast(w KernelVersion) bool { return v.Compare(w) >= 0 }

// ParseKernelVersion reads the release that uname gives, for example
// "6.12.107+deb13-cloud-amd64" or "7.3-rc2".
func ParseKernelVersion(release string) (KernelVersion, error) {
	var v KernelVersion
	if n, _ := fmt.Sscanf(release, "%d.%d.%d", &v.Major, &v.Minor, &v.Patch); n < 2 {
		return KernelVersion{}, fmt.Errorf("not a kernel version: %q", release)
	}
	return v, nil
}

// RunningKernel is the version of the kernel that runs. Distributions count the third
// number in their own way.
func RunningKernel() (KernelVersion, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return KernelVersion{}, fmt.Errorf("uname: %w", err)
	}
	return ParseKernelVersion(unix.ByteSliceToString(uts.Release[:]))
}

// A BadKernel is a range of versions that were seen, or reported, to misbehave with ublk.
type BadKernel struct {
	First, Last KernelVersion // both inclusive
	Problem     string
	Advice      string
}

var badKernels = []BadKernel{
	{
		First:   KernelVersion{6, 18, 4},
		Last:    KernelVersion{6, 18, 5},
		Problem: "creating a ublk device makes the kernel oops",
		Advice:  "use another kernel",
	},
	{
		First:   KernelVersion{6, 18, 40},
		Last:    KernelVersion{6, 18, 40},
		Problem: "control commands may never complete",
		Advice:  "use another kernel",
	},
	{
		First:   KernelVersion{7, 0, 0},
		Last:    KernelVersion{7, 0, 0},
		Problem: "control commands may never complete",
		Advice:  "use another kernel",
	},
	{
		First:   KernelVersion{7, 0, 14},
		Last:    KernelVersion{7, 0, 14},
		Problem: "control commands may never complete",
		Advice:  "use another kernel",
	},
	{
		First: KernelVersion{6, 0, 0},
		Last:  KernelVersion{6, 14, 999}, // everything before 6.15
		Problem: "CVE-2025-37906: cancelling a command can race with its delivery, unless the " +
			"distribution has fixed it",
		Advice: "look whether your distribution's kernel has the fix",
	},
}

// badBatchIO is the known fault of batch I/O. It was found in the source of 7.3.4, and was seen
// there. A later version of ublk_batch_tw_cb in drivers/block/ublk_drv.c checks whether it is
// cancelled.
var badBatchIO = BadKernel{
	First: KernelVersion{7, 0, 0},
	Last:  KernelVersion{7, 3, 999},
	Problem: "when a server with batch I/O is killed, the kernel may copy requests to where its " +
		"memory was, in a thread that has none",
	Advice: "leave batch I/O off",
}

// KnownBadBatchIO returns what is known against batch I/O (Config.BatchIO) on v, if anything is.
func KnownBadBatchIO(v KernelVersion) (trouble BadKernel, known bool) {
	return badBatchIO, v.AtLeast(badBatchIO.First) && badBatchIO.Last.AtLeast(v)
}

// KnownBadKernel returns the entries that v falls into.
func KnownBadKernel(v KernelVersion) []BadKernel {
	var hits []BadKernel
	for _, b := range badKernels {
		if v.AtLeast(b.First) && b.Last.AtLeast(v) {
			hits = append(hits, b)
		}
	}
	return hits
}
