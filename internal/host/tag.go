package host

import (
	"encoding/binary"

	"github.com/google/uuid"
)

// Every ublk device that this program makes carries a tag, which the kernel keeps: this mark and,
// below it, the first 48 bits of the set's UUID. So a device can be identified even if its server
// died before it could write a record, or if the runtime directory was emptied.
const (
	tagMark  = 0x5552 << 48 // "UR"
	tagShift = 16           // of the UUID's first eight bytes
)

// Tag is the tag of the devices of the set with that UUID.
func Tag(id uuid.UUID) uint64 { return tagMark | binary.BigEndian.Uint64(id[:8])>>tagShift }

// Tagged reports whether a tag is this program's, of any set.
func Tagged(tag uint64) bool { return tag>>48 == tagMark>>48 }

// TagOf is Tag for a UUID as text. It returns 0, which no device of this program has, if the text
// is not a UUID.
func TagOf(text string) uint64 {
	id, err := uuid.Parse(text)
	if err != nil {
		return 0
	}
	return Tag(id)
}
