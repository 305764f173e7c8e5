package metadata

// Severity of a Problem.
type Severity string

const (
	SeverityInfo    Severity = "info"    // nothing to do
	SeverityWarning Severity = "warning" // redundancy is lost, or soon will be; the set loads
	SeverityError   Severity = "error"   // the set does not load, or contradicts itself
)

// Problem is something that Check found.
type Problem struct {
	Severity Severity `json:"severity"`
	Where    string   `json:"where"`
	What     string   `json:"what"`
	Do       string   `json:"do,omitempty"` // what to do about it
}

// Report is what Check found.
type Report struct {
	Superblock *Superblock `json:"superblock,omitempty"`
	Position   Position    `json:"position"`
	Units      TableCounts `json:"units"`
	Problems   []Problem   `json:"problems"`
}

// OK reports that there are no errors; warnings do not count.
func (r *Report) OK() bool { panic("in the works") }

// String is the report for people, one problem per line.
func (r *Report) String() string { panic("in the works") }

// Check reads everything of a set and reports what is wrong with it. The error
// is that of Load where the set does not load; the report is of use all the
// same.
func Check(devs []Device) (Report, error) { panic("in the works") }

// DumpResult is everything of a set, to be marshalled as JSON.
type DumpResult struct {
	Superblocks []SuperblockCopy `json:"superblocks"`
	Mirrors     []MirrorDump     `json:"mirrors"`
	Position    Position         `json:"position"`
	Table       []Entry          `json:"table"`
	Error       string           `json:"error,omitempty"`
}

// SuperblockCopy is one copy of the superblock.
type SuperblockCopy struct {
	Device     int         `json:"device"` // index of the device as given
	Offset     int64       `json:"offset"`
	Superblock *Superblock `json:"superblock,omitempty"`
	Error      string      `json:"error,omitempty"`
}

// MirrorDump is what a mirror holds.
type MirrorDump struct {
	Device      uint8            `json:"device"`
	Start       int64            `json:"start"`
	Stale       bool             `json:"stale,omitempty"`
	Checkpoints []CheckpointDump `json:"checkpoints"`
	Records     []RecordDump     `json:"records"`
	Unreadable  int              `json:"unreadable_records"` // log slots that could not be read
}

// CheckpointDump is a checkpoint slot with a valid header.
type CheckpointDump struct {
	Slot       int      `json:"slot"`
	Generation uint64   `json:"generation"`
	Epoch      uint64   `json:"epoch"`
	Covers     Position `json:"covers"`
	Entries    uint64   `json:"entries"`
	Pages      int      `json:"pages"`
	BadPages   int      `json:"bad_pages"`
}

// RecordDump is a log record.
type RecordDump struct {
	Slot     int      `json:"slot"`
	Position Position `json:"position"`
	Previous Position `json:"previous"`
	Kind     string   `json:"kind"`
	Live     bool     `json:"live"` // on the chain, and after the checkpoint
	Entries  []Entry  `json:"entries"`
}

// Dump reads everything of a set, as far as it can be read.
func Dump(devs []Device) (*DumpResult, error) { panic("in the works") }
