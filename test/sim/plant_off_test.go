//go:build !planted

package sim

// plant plants the bugs that can only be inside of the code under test; it reports
// false where the build has no such thing.
func plant(Bug, bool) bool { return false }
