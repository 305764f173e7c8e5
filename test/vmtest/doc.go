// Package vmtest helps tests that need a real kernel: it says what a test
// requires, and makes real block devices that fail in the ways that disks do.
//
// The tests are ordinary Go tests. cmd/vmexec runs them in guests with
// Debian's kernels (make test-vm); where the machine itself has ublk and the
// user is root, plain go test runs them as well, and elsewhere they skip with
// the reason. In a guest nothing skips for lack of root, ublk, a tool or a
// module, because the harness has provided them: there a test fails.
//
//	func TestX(t *testing.T) {
//		vmtest.NeedUblk(t)
//		vmtest.Require(t, vmtest.Feature{Name: "zero copy", Min: vmtest.V(6, 15), Has: probe})
//		disk := vmtest.NewLoop(t, 256<<20, vmtest.LoopOptions{})
//		bad := vmtest.NewDM(t, vmtest.ErrorTable(t, disk, vmtest.Extent{Start: 100, Count: 8}))
//		... bad.Path ... bad.Swap(t, table) ...
//	}
//
// Every device goes away in a t.Cleanup, last made first, so a test only has
// to close what it opened itself. Sectors are 512 bytes throughout, as in the
// kernel, whatever the device's block size.
//
// The package imports nothing of this module, so that any package's tests,
// internal ones too, can use it. The machinery that boots guests is in its
// subdirectories.
package vmtest
