// Package rig drives programs under test, above all ublk-remap, in tests that need
// a real kernel. All suites use it.
//
//   - run.go and process.go run verbs and other programs, each with a limit.
//   - set.go keeps a set of metadata, and the device that serves it; status.go is
//     what the verbs print as JSON.
//   - disk.go makes disks whose sectors go bad while they are in use.
//   - direct.go reads and writes a device directly; layout.go tells what lies
//     where on the disk below.
//   - fs.go, tree.go, fiemap.go and fio.go use a device as its owner would.
//   - helper.go runs the test program itself as a process of another kind.
//   - watchdog.go prints what each task is doing when something hangs.
package rig
