package sim

import (
	"fmt"
	"reflect"
)

// Stats counts what a run, or many runs, went through. With it a test can tell that the cases occur
// that it is about.
type Stats struct {
	Requests, Errors, Heals, Pending, Trips, Resumes, Unknown, Moves, Full uint64
	// How servers and disks came and went.
	Starts, Cuts, Kills, Stops, Leaves, Vanishes, CutCreates uint64
	Steps, Checkpoints, Stale                                uint64
	// Blocks that were filled from a backup.
	Filled uint64
	// Blocks that imports of lists have marked.
	Marked uint64
	// How often all mirrors got larger slots.
	Grown uint64
	// Blocks that retests took home from spare units.
	Retested uint64
	// Blocks that were written in place, and read twice, with the spare region full.
	InPlace uint64
	// Operations on disks that failed, for any reason; caches that a failed flush dropped;
	// writes to metadata that were reported as good and went nowhere, or elsewhere.
	// In addition, bits that flipped in metadata while it was in use.
	Faults, Dropped, Lies, Flips uint64
	// Sectors whose content was compared with the model: read through the device,
	// and found on the disks after a load.
	Read, Inspected uint64
	// Damage that was done to copies of the metadata, and what the load then said: the same table,
	// a refusal, or something older where every newer record was lost.
	Damaged, Survived, Refused, Older uint64
	// Wrong, stale or missing devices that a load had to refuse.
	WrongDevices uint64
	// Starts while the path to the disks came and went, and how many of these starts were refused.
	Outages, PathRefused uint64
	// Internal requests of the background reader; sectors that they have read, and blocks that
	// they could not read.
	ReaderRequests, ReaderSectors, ReaderFailed uint64
	// Events of the flight recorder that starts found on the disks.
	Recorded uint64
	// Whole passes of the scrub, and blocks that it could read on a retry only.
	Scrubs, Weak uint64
	// Spare units in which reads of users had found bad blocks, and which nothing that reads was
	// left in.
	Left uint64
	// Rehearsals that ended.
	Drills uint64
}

// Add adds the counts of another run.
func (s *Stats) Add(o *Stats) {
	to, from := reflect.ValueOf(s).Elem(), reflect.ValueOf(o).Elem()
	for i := range to.NumField() {
		to.Field(i).SetUint(to.Field(i).Uint() + from.Field(i).Uint())
	}
}

// String is one line for people.
func (s *Stats) String() string {
	return fmt.Sprintf("%s requests (%s answered with errors), %s starts, %s power cuts (%s in "+
		"create), %s SIGKILLs, %s stops, %s leaves, %s disks vanished; "+
		"%s failed operations, %s dropped caches, %s lies, %s flipped bits; %s heals, %s commits "+
		"of unknown outcome, %s blocks moved, %s filled, %s imported, %s taken home by retests, "+
		"%s written in place, "+
		"%s checkpoints, %s times larger slots; "+
		"%s of data compared in reads, %s after loads; %s times metadata damaged (%s loaded the "+
		"same, %s refused, %s older for lack of any newer record), %s wrong devices refused; %s "+
		"starts over a path that came and went (%s refused); "+
		"%s internal reads, of %s, with %s blocks that failed; %s passes of the "+
		"scrub, with %s weak blocks; %s bad spare units were left; "+
		"%s recorded events found; %s drills; %s events",
		count(s.Requests), count(s.Errors), count(s.Starts), count(s.Cuts), count(s.CutCreates),
		count(s.Kills), count(s.Stops), count(s.Leaves), count(s.Vanishes),
		count(s.Faults), count(s.Dropped), count(s.Lies), count(s.Flips), count(s.Heals),
		count(s.Unknown), count(s.Moves), count(s.Filled), count(s.Marked), count(s.Retested),
		count(s.InPlace),
		count(s.Checkpoints), count(s.Grown),
		size(s.Read), size(s.Inspected), count(s.Damaged), count(s.Survived), count(s.Refused),
		count(s.Older), count(s.WrongDevices), count(s.Outages), count(s.PathRefused),
		count(s.ReaderRequests), size(s.ReaderSectors), count(s.ReaderFailed),
		count(s.Scrubs), count(s.Weak), count(s.Left),
		count(s.Recorded), count(s.Drills), count(s.Steps))
}

// count writes a number with commas.
func count(n uint64) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", count(n/1000), n%1000)
}

// size writes a number of sectors in bytes.
func size(sectors uint64) string {
	if n := sectors * sectorSize; n < 1<<30 {
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(sectors*sectorSize)/(1<<30))
}
