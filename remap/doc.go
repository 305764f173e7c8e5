// Package remap decides where each block of the exported device lives and
// keeps writes alive when the backing disk fails them.
//
// It holds the wait-free [Map], the spare [Allocator], the error policy
// ([Classify], [Breaker]) and two state machines without I/O of their own: one
// [Engine] for each queue, which splits requests over home and spare blocks,
// isolates failures and heals writes, and one [Arbiter] for the device, which
// hands out spare units, has changes made durable, publishes them in the Map
// and moves blocks on the operator's word.
//
// The package never opens a device, never starts a goroutine, never blocks and
// never reads a clock: a driver hands it requests, completions, messages and
// the time, and carries out what it asks for. The ublk server is one driver,
// the simulator another.
package remap
