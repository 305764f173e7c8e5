package control

import (
	"fmt"
	"time"
)

// The JSON names below are stable: scripts and the monitor rely on them. All
// counters count from the server's start.

// State says what state a device is in.
type State string

const (
	StateLive       State = "live"       // it works
	StateRecovering State = "recovering" // its server died or is starting; I/O waits
	// the device works, but a metadata mirror is missing, or no spare is free
	StateDegraded State = "degraded"
	// the breaker is open: errors are passed on, nothing is remapped
	StateTripped  State = "tripped"
	StateFailed   State = "failed"   // it cannot be served
	StateStopping State = "stopping" // it was asked to stop and is ending
	// StateUnreachable: it has a server that does not answer or cannot be seen from here.
	StateUnreachable State = "unreachable"
)

// Status is everything that `status --json` shows about one device.
type Status struct {
	Device string `json:"device"` // /dev/ublkbN
	ID     int    `json:"id"`     // N
	Name   string `json:"name"`
	UUID   string `json:"uuid"`
	State  State  `json:"state"`
	Reason string `json:"reason"` // why it is not live; empty if it is
	Action string `json:"action"` // what to do next; empty: nothing
	// WaitingSince is set if I/O of a disk is under way but none has come back: the time since
	// then. It is null otherwise.
	WaitingSince *time.Time `json:"waiting_since"`
	// Created is when the set was made. It is null if the server is too old to tell, or dead.
	Created *time.Time `json:"created"`
	Backing string     `json:"backing"`
	// Missing are the paths of its disks that are not on this host any more. The server does not
	// fill it in: package host does.
	Missing []string `json:"missing"`
	// Alerts are those of the monitor that are there, the most urgent first. The server does not
	// fill it in: [AddAlerts] does. null: no monitor tells.
	Alerts     []Alert  `json:"alerts"`
	BlockSize  int      `json:"block_size"`  // bytes
	SizeBlocks uint64   `json:"size_blocks"` // of the exported device
	Spare      Spare    `json:"spare"`
	Remaps     uint64   `json:"remaps"`  // units with at least one block in the spare region
	Pending    uint64   `json:"pending"` // blocks
	Lost       uint64   `json:"lost"`    // blocks
	Errors     Errors   `json:"errors"`
	Heals      Heals    `json:"heals"`
	IO         IO       `json:"io"`
	Requests   Requests `json:"requests"`
	Metadata   Metadata `json:"metadata"`
	Table      *Table   `json:"table,omitempty"` // nil: the server is too old for it
	Scrub      Scrub    `json:"scrub"`
	Breaker    Breaker  `json:"breaker"`
	Features   Features `json:"features"`
	// ErrorRecovery is one element for each disk below the backing and the spare devices. The
	// server does not fill it in: package host does.
	ErrorRecovery []Drive `json:"error_recovery"`
	// Files says what pending and lost blocks come to. The server does not fill it in: the verb
	// status does, if it looked. null: it did not.
	Files     *Damage `json:"files,omitempty"`
	ServerPID int     `json:"server_pid"` // 0 if no server runs
}

// Damage is what pending and lost blocks come to.
type Damage struct {
	Damaged  int      `json:"damaged"`         // files that lack data
	Paths    []string `json:"paths"`           // of those, 100 at most
	Metadata uint64   `json:"metadata_blocks"` // blocks of metadata
	Unknown  uint64   `json:"unknown_blocks"`  // blocks of which the owner is not known
	// Complete: all of it was looked at. It was not if that took too long.
	Complete bool `json:"complete"`
}

// Drive says how long a disk, and the kernel for it, tries a bad sector.
type Drive struct {
	Disk string `json:"disk"` // path
	// LimitS is after how many seconds the drive gives up, as it was set. null: no limit was set.
	LimitS *float64 `json:"limit_s"`
	// BeforeS is the limit before that. 0: no limit; null: not known.
	BeforeS *float64 `json:"limit_before_s"`
	// KernelS is after how many seconds the kernel aborts a command and resets the link. 0: the
	// kernel has no such timer for this disk.
	KernelS float64 `json:"kernel_timeout_s"`
	// KernelBeforeS is the value before that. null: it was not changed.
	KernelBeforeS *float64 `json:"kernel_timeout_before_s"`
	Note          string   `json:"note"` // why no limit is set; empty if one is
}

// Spare describes the spare units, in units of 4 KiB. Retired and quarantined units are neither
// used nor free.
type Spare struct {
	Total   uint64        `json:"total"`
	Used    uint64        `json:"used"`
	Free    uint64        `json:"free"`
	Devices []SpareDevice `json:"devices"`
}

// SpareDevice is a device that has spare units.
type SpareDevice struct {
	Device string `json:"device"` // path
	Total  uint64 `json:"total"`  // units
}

// Errors counts operations on the backing and spare devices that failed.
type Errors struct {
	Read      uint64 `json:"read"`
	Write     uint64 `json:"write"`
	Flush     uint64 `json:"flush"`
	Transport uint64 `json:"transport"` // not caused by the medium
	// These count reads, not operations. FailedFast: reads of a pending block that had failed a
	// moment ago, answered with an error without a new try. NotNoted: failed reads whose bad blocks
	// were not noted as pending, because the table takes no more entries.
	FailedFast uint64 `json:"failed_fast"`
	NotNoted   uint64 `json:"not_noted"`
}

// Heals counts requests that met a bad block.
type Heals struct {
	Writes uint64 `json:"writes"` // answered with success after remapping
	Reads  uint64 `json:"reads"`  // answered with success after a retry
	Failed uint64 `json:"failed"`
}

// IO counts requests of the exported device, and the bytes of those that succeeded.
type IO struct {
	Reads      uint64 `json:"reads"`
	Writes     uint64 `json:"writes"`
	Flushes    uint64 `json:"flushes"`
	Discards   uint64 `json:"discards"`
	ReadBytes  uint64 `json:"read_bytes"`
	WriteBytes uint64 `json:"write_bytes"`
}

// Requests counts the requests of the exported device that are under way, as they were at most a
// second or two ago.
type Requests struct {
	UnderWay int `json:"under_way"`
	Most     int `json:"most"` // that can be under way: queues × depth
	Slow     int `json:"slow"` // under way for seconds
	// SlowSince says since when, at least, the oldest slow request is under way. null: none is
	// slow.
	SlowSince *time.Time `json:"slow_since"`
	// SlowLast is when the last slow request was seen, if that is at most a minute ago. null: none
	// was. A slow disk has none under way at times.
	SlowLast *time.Time `json:"slow_last"`
}

// Table is how full the remap table is.
type Table struct {
	Entries uint64 `json:"entries"` // that it has, at most
	Max     uint64 `json:"max"`     // that the metadata can hold now
	// Growth says what is done about a table that fills: "under way" if more room is being made,
	// "waits" if the metadata has to be in order first, "no room" if the disk has none. Empty if
	// nothing has to be done.
	Growth string `json:"growth"`
}

// Metadata describes the durable remap table.
type Metadata struct {
	Version  int      `json:"version"`
	Sequence uint64   `json:"sequence"` // of the newest durable record
	Mirrors  []Mirror `json:"mirrors"`
	LogUsed  int64    `json:"log_used"` // bytes
	LogSize  int64    `json:"log_size"` // bytes
	// Number of copies of the superblock that cannot be written.
	BadSuperblocks int `json:"bad_superblocks"`
	// Number of places that were found bad and have been written again since the start.
	Scrubbed uint64 `json:"scrubbed"`
}

// Mirror is one copy of the metadata.
type Mirror struct {
	Location string `json:"location"`
	State    string `json:"state"` // good, weak, stale or rebuilding
}

// Scrub describes the background read of every block.
type Scrub struct {
	State        string     `json:"state"`    // idle, running or paused
	Position     uint64     `json:"position"` // block: all below it was read
	Total        uint64     `json:"total"`    // blocks
	Rate         uint64     `json:"rate"`     // bytes a second, over the last moments
	LastFinished *time.Time `json:"last_finished"`
}

// ScrubVerb says what a ScrubRequest asks for.
type ScrubVerb string

const (
	ScrubShow   ScrubVerb = "status" // nothing but the state
	ScrubStart  ScrubVerb = "start"
	ScrubPause  ScrubVerb = "pause"
	ScrubResume ScrubVerb = "resume"
	ScrubStop   ScrubVerb = "stop"
)

// ScrubRequest asks for something of the scrub. All but Do is for a start only.
type ScrubRequest struct {
	Do        ScrubVerb `json:"do"`
	Rate      uint64    `json:"rate,omitempty"` // bytes a second at most; 0: the default
	Idle      bool      `json:"idle,omitempty"` // read only while nobody uses the device
	IntervalS uint64    `json:"interval_s,omitempty"`
	// RelocateSlow: blocks that are slow to read are moved to the spare region.
	RelocateSlow bool `json:"relocate_slow,omitempty"`
	// NoRetest: do not test after a pass whether homes of remapped blocks are well again.
	NoRetest bool `json:"no_retest,omitempty"`
	// Slow: the answer lists the blocks that are slow to read. It goes with every verb.
	Slow bool `json:"slow,omitempty"`
}

// ScrubStatus is everything that `scrub status --json` shows.
type ScrubStatus struct {
	Scrub
	// What the pass that is under way has found and done, or else the last one; in blocks.
	Found     ScrubFound `json:"found"`
	Repaired  uint32     `json:"repaired"`
	Relocated uint32     `json:"relocated"`
	EtaS      *uint64    `json:"eta_s"` // seconds; null: not known, or nothing is being read

	Started   *time.Time `json:"started"`    // when the pass began; null: there was none
	RateLimit uint64     `json:"rate_limit"` // bytes a second
	Idle      bool       `json:"idle"`       // it reads only while nobody uses the device
	IntervalS uint64     `json:"interval_s"` // from one start of a pass to the next; 0: none
	Waits     string     `json:"waits"`      // why nothing is read now; empty if something is
	// RelocateSlow: blocks that are slow to read are moved to the spare region.
	RelocateSlow bool `json:"relocate_slow"`
	// NoRetest: homes of remapped blocks are not tested after a pass.
	NoRetest bool        `json:"no_retest"`
	Retest   ScrubRetest `json:"retest"`
	// SlowBlocks are the blocks that are slow to read, in ascending order, if the request asked
	// for them: those that were found since the server's start.
	SlowBlocks []Range `json:"slow_blocks,omitempty"`
}

// ScrubRetest is how far the test of homes is that follows a pass, or how the last one of this
// server has ended. It counts blocks.
type ScrubRetest struct {
	Running bool   `json:"running"`
	Tested  uint64 `json:"tested"`
	Passed  uint64 `json:"passed"` // for the first time: they stay until they pass once more
	Home    uint64 `json:"home"`   // for the second time: they moved home
	Failed  uint64 `json:"failed"` // not well
}

// ScrubFound counts blocks.
type ScrubFound struct {
	Unreadable uint32 `json:"unreadable"` // do not read, and are pending now
	Weak       uint32 `json:"weak"`       // were read only after a try had failed
	Slow       uint32 `json:"slow"`       // were slow to read each of several times
	// Free spare units that do not read. They are used only when no other one is free.
	SpareUnits uint32 `json:"spare_units"`
	// Free spare units that are slow to read. They are treated alike.
	SlowSpareUnits uint32 `json:"slow_spare_units"`
}

// Breaker says whether remapping is stopped.
type Breaker struct {
	State  string `json:"state"` // closed or open
	Reason string `json:"reason"`
	// Kind is what it opened for. Empty: it is closed, or its server is too old to tell.
	Kind TripKind `json:"kind"`
}

// TripKind says what a breaker opened for.
type TripKind string

const (
	TripPath     TripKind = "path"     // the way to a disk, or the whole disk, fails
	TripMissing  TripKind = "missing"  // a disk is gone
	TripMedia    TripKind = "media"    // a disk answers, and its spare units fail
	TripBudget   TripKind = "budget"   // blocks went bad faster than the budget allows
	TripMetadata TripKind = "metadata" // the metadata takes no commit
)

// Features says which of the kernel's features the device uses.
type Features struct {
	ZeroCopy   bool `json:"zero_copy"`
	AutoBufReg bool `json:"auto_buf_reg"`
	BatchIO    bool `json:"batch_io"`
	Recovery   bool `json:"recovery"`
}

// Remap is a run of blocks that are not plain home.
type Remap struct {
	Block uint64 `json:"block"` // first exported block
	Count uint64 `json:"count"` // blocks
	// Spare is the spare block that holds the first block: number of the spare unit × blocks per
	// unit + place within the unit. It is null if the blocks are not in the spare region.
	Spare *uint64 `json:"spare"`
	// mapped, pending or lost; "pending" is also used for blocks in the spare region
	State string `json:"state"`
	Cause string `json:"cause"`
	Time  string `json:"time"` // RFC 3339, UTC
}

// Item is one row of `list --json`.
type Item struct {
	Device    string `json:"device"`
	ID        int    `json:"id"`
	Name      string `json:"name"`
	UUID      string `json:"uuid"`
	State     State  `json:"state"`
	Backing   string `json:"backing"`
	ServerPID int    `json:"server_pid"`
}

// Range is a run of exported blocks.
type Range struct {
	Block uint64 `json:"block"`
	Count uint64 `json:"count"`
}

// MoveRequest asks to move blocks to the spare region, or home.
type MoveRequest struct {
	Ranges []Range `json:"ranges"`
}

// MoveReply says what was moved.
type MoveReply struct {
	Blocks uint64 `json:"blocks"`
	// Old is how many of Blocks now hold what their home held before they left it.
	Old uint64 `json:"old,omitempty"`
	// Failed and NoCopy are blocks that stay where they are, because they could not be copied or
	// have no copy that reads. An error says so, but to a client that moves piece by piece.
	Failed uint64 `json:"failed,omitempty"`
	NoCopy uint64 `json:"no_copy,omitempty"`
}

// Unmoved returns the error for what of a range of blocks stays where it is; nil if all was moved.
// It wraps ErrRefused if blocks have no copy, and else ErrFailed.
func (m *MoveReply) Unmoved(r Range) error {
	switch {
	case m.NoCopy > 0:
		return fmt.Errorf("%w: blocks %d+%d: %d of them have no copy that reads; what home holds "+
			"of them may be older than what was last written: if it is good enough, remap remove "+
			"--accept-old", ErrRefused, r.Block, r.Count, m.NoCopy)
	case m.Failed > 0:
		return fmt.Errorf("%w: blocks %d+%d: %d blocks could not be copied and stay where they are",
			ErrFailed, r.Block, r.Count, m.Failed)
	}
	return nil
}

// What a FillReply says of a block.
const (
	FillFailed = 'F' // it stays as it is: the reason says why, or it could not be read or written
	FillDone   = 'D' // it holds the data
	FillNotBad = 'N' // it is neither pending nor lost, and was left alone
	FillReads  = 'R' // it is pending, reads again, and was left alone
	// FillChanged: it is bad, but not as it was seen, or was not among the rows. It was left alone.
	FillChanged = 'C'
)

// HealRequest asks for free space to be overwritten.
type HealRequest struct {
	Rows []Remap `json:"rows"`
}

// FillReply says what became of blocks that were to be filled.
type FillReply struct {
	Outcomes string `json:"outcomes"` // one character for each block
	// Reason says why the fill ended early; empty if it did not.
	Reason string `json:"reason,omitempty"`
}

// MarkReply says what became of blocks that were to be marked pending. Each is in one group.
type MarkReply struct {
	Marked uint64 `json:"marked"` // they are pending now
	Known  uint64 `json:"known"`  // they were pending or lost already
	Spared uint64 `json:"spared"` // they live in the spare region
}

// RescueReply says what became of blocks that were to be moved while they read.
type RescueReply struct {
	Moved uint64 `json:"moved"`
	Stay  uint64 `json:"stay"` // they stay where they are
	// Why is why the rest was not tried; empty if all was.
	Why string `json:"why"`
}

// What Drill is asked for.
const (
	DrillReady  = "ready"  // say whether a rehearsal could begin, and do nothing
	DrillHeal   = "heal"   // rehearse a heal
	DrillPassed = "passed" // note that the whole drill passed
	DrillFailed = "failed" // note that it failed
)

// DrillReply is what became of a rehearsal.
type DrillReply struct {
	Steps   []DrillStep `json:"steps"`   // that went well
	Commits int         `json:"commits"` // records that were written
	// Error says why it ended early; empty if it did not.
	Error string `json:"error"`
}

// DrillStep is one step of a rehearsal.
type DrillStep struct {
	Name   string `json:"name"`
	TookUS int64  `json:"took_us"`
}

// Events are what the flight recorder keeps, or a part of it. Package metadata knows what is in
// them.
type Events struct {
	First  uint64 `json:"first"` // number of the first event; 0: there is none
	Next   uint64 `json:"next"`  // number of the next event to come
	Events []byte `json:"events"`
}

// Snapshot is a part of the durable table at one moment, for a backup. Package
// metadata knows what is in it.
type Snapshot struct {
	Superblock []byte `json:"superblock"`
	Epoch      uint64 `json:"epoch"`
	Sequence   uint64 `json:"sequence"`
	Checksum   uint64 `json:"checksum"`
	Entries    []byte `json:"entries"`
	Next       uint64 `json:"next"` // the cursor to continue from
	Done       bool   `json:"done"`
}
