package set

import (
	"fmt"
	"strings"

	"ublkremap/internal/blockdev"
	"ublkremap/metadata"
)

// EndMarksDo says what to do about EndMarks.
const EndMarksDo = "keep other tools from this disk (mdadm: ARRAY <ignore>, or a DEVICE line " +
	"without it), " +
	"and when there is time move what the device shows to a set made anew, whose end is not left " +
	"there"

// EndMarks says which marks at the end of a backing belong to the data of its set. It is empty if
// there are none. Sets with a spare device that older versions made have the end of their data
// there. Tools that look at the end of disks (for MD 0.90 and 1.0, DDF, ZFS, DRBD, the copy of a
// GPT) find such marks without the set, and may take the disk for theirs.
func EndMarks(d *blockdev.Device, sb *metadata.Superblock) string {
	if len(sb.Devices) == 1 || sb.TailStart != 0 {
		return ""
	}
	var all []string
	for _, m := range blockdev.DetectEnd(d, sb.Devices[0].Size) {
		all = append(all, m.String())
	}
	if len(all) == 0 {
		return ""
	}
	return fmt.Sprintf("%s of what the device shows is found at the end of the disk itself: an "+
		"older version made this set, and left the end of the data there", strings.Join(all, ", "))
}
