package metadata

// servedAhead reports whether a spare device that is ahead of the backing has a record or a
// checkpoint of a later epoch, where its own superblock has its mirrors: those may have moved since
// the backing's was written. If it has, the start that raised the epoch was not cut between the
// superblocks: the backing was missing.
func servedAhead(dev Device, sb *Superblock, epoch uint64) bool {
	l, err := newLayout(sb)
	if err != nil {
		return false
	}
	page := AlignedBytes(PageSize)
	for _, at := range l.mirrorsAt() {
		if at.device != sb.DeviceIndex {
			continue
		}
		for slot := range 2 {
			if _, err := dev.ReadAt(page, at.headerOffset(slot)); err == nil {
				if h, ok := decodeHeader(page, &sb.UUID); ok && h.epoch > epoch {
					return true
				}
			}
		}
		for i := range at.atoms {
			if _, err := dev.ReadAt(page, at.logOffset(i)); err == nil {
				if r, ok := decodeRecord(page, &sb.UUID); ok && r.Epoch > epoch {
					return true
				}
			}
		}
	}
	return false
}
