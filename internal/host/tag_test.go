package host

import (
	"testing"

	"github.com/google/uuid"
)

// Later versions look for this tag, so it must not change.
func TestTag(t *testing.T) {
	id := uuid.MustParse("01234567-89ab-4def-8123-456789abcdef")
	if got := Tag(id); got != 0x55520123456789ab || got != TagOf(id.String()) || !Tagged(got) {
		t.Errorf("%#x, %#x", got, TagOf(id.String()))
	}
	for _, foreign := range []uint64{0, 1, 2, 1 << 63, 0x5552, 1<<48 - 1} {
		if Tagged(foreign) {
			t.Errorf("%#x counts as ours", foreign)
		}
	}
	if TagOf("no UUID") != 0 {
		t.Error("a tag without a UUID")
	}
}
