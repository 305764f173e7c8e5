package vmtest

import "testing"

// TestShare: each kernel gets some of the tests.
func TestShare(t *testing.T) {
	older := 0
	names := []string{"TestA", "TestB", "TestC", "TestD", "TestE", "TestF", "TestG", "TestH"}
	for _, name := range names {
		if onOlder(name) {
			older++
		}
	}
	if older == 0 || older == len(names) {
		t.Errorf("%d of %d tests run on the older kernel", older, len(names))
	}
}
