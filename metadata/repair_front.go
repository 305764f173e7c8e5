package metadata

// HasFrontSuperblock reports whether one of the superblocks at the start of a device is
// whole. If only the one at the end is, something else may have been written
// to the device since: a new file system does not write to the end.
func HasFrontSuperblock(dev Device) bool {
	for _, c := range readSuperblocks(withRetries([]Device{dev})[0]) {
		if c.sb != nil && c.offset <= RegionStart {
			return true
		}
	}
	return false
}
