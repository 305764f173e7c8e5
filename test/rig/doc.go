// Package rig drives the program ublk-remap in tests that need a real kernel:
// it runs verbs with a limit, keeps a set of metadata and the device that
// serves it, reads and writes that device directly, and barks when something hangs.
package rig
