// Package metadata keeps the remap table on disk: format version 4.
//
// # What it is for
//
// A table of remapped blocks must survive power cuts, bad sectors in its own
// area and the loss of a whole mirror. It must never be guessed. So there are
// two mirrors on the disk (and one on a spare device). Each is a ring log of small
// records and two checkpoint slots. Superblocks say where they are:
//
//	|superblocks| mirror A |room| data ... |displaced head| spare |room| mirror B |superblock|
//
//	mirror:  | header | pages ... | header | pages ... | record | record | record ... |
//	         '------ slot 0 ------'------ slot 1 ------'----------- log -------------'
//
//	record:  | magic version kind sum | set UUID | epoch sequence | predecessor | ... |
//	         | entries, 24 bytes each |
//	page:    | magic version index sum | set UUID | checkpoint | count | entries, 24 bytes each |
//	entry:   | unit 8 | spare 4 | count 4 | time 4 | mask 1 | state 1 | cause 1 | 0 |
//
// FORMAT.md draws every byte and says why each step of writing is in its
// place. All of that is frozen with the version.
//
// # How data moves
//
// [Plan] lays a set out and [Create] writes it. [Load] reads a set into an
// [Image]: it elects the superblock, takes the newest record of all logs,
// follows the chain of predecessors back to the newest whole checkpoint, and
// hands out the entries by [Image.Replay]. A record that is missing from that chain is
// [ErrDamaged]; a record that is not on it is void.
//
// A mirror whose place has gone bad is rebuilt in the room that [Plan] leaves
// for that; mirror_rebuild.go says in which steps.
//
// An Image becomes a [Committer], which makes transactions durable. It is
// sans-I/O: its user asks it for writes and reads ([Committer.Ops]), does them, says how
// they ended ([Committer.Done]), and learns what became of the transactions
// ([Committer.Results]). When a checkpoint is due it asks its [Source] for the live table,
// page by page. [Check] and [Dump] examine a set offline.
//
// # What it never does
//
// It never decides which spare unit serves what: entries mean nothing to it beyond their encoding.
// It reads no clock except that of a device with a [Clock], never starts a goroutine or opens a
// file. It never takes unreadable data for absent data, unless it is the medium that does not read
// (device_path.go). It never writes outside of superblocks and mirrors, except for [Convert] and
// [Revert], which move data from and to a plain disk. It never calls a transaction durable that the
// loss of one mirror could silently undo, and never writes over a record that a load might need.
package metadata
