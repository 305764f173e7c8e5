package metadata

// inChunks calls f for the parts of a span, one after the other. A part is at most as long as buf,
// and f gets as much of buf as the part is long.
func inChunks(buf []byte, s span, f func(buf []byte, off int64)) {
	for off := s.from; off < s.to; off += int64(len(buf)) {
		f(buf[:min(int64(len(buf)), s.to-off)], off)
	}
}

// readAround reads buf at off. If that fails, it reads unit by unit. If a unit fails, it reads
// block by block; a block is as long as one. Blocks that cannot be read are zero, and bad is called
// with their offset in buf. Both buffers are aligned.
func readAround(d Device, buf []byte, off int64, one []byte, bad func(i int64, err error)) {
	if _, err := d.ReadAt(buf, off); err == nil {
		return
	}
	bs := int64(len(one))
	for u := int64(0); u < int64(len(buf)); u += UnitSize {
		unit := buf[u:min(u+UnitSize, int64(len(buf)))]
		if _, err := d.ReadAt(unit, off+u); err == nil {
			continue
		}
		for i := int64(0); i < int64(len(unit)); i += bs {
			if _, err := d.ReadAt(one, off+u+i); err != nil {
				clear(unit[i : i+bs])
				bad(u+i, err)
			} else {
				copy(unit[i:], one)
			}
		}
	}
}

// writeAround writes buf at off. If that fails, it writes unit by unit. If a unit fails, it writes
// block by block. bad is called with the offset in buf of each block that cannot be written.
func writeAround(d Device, buf []byte, off int64, one []byte, bad func(i int64)) {
	if _, err := d.WriteAt(buf, off); err == nil {
		return
	}
	bs := int64(len(one))
	for u := int64(0); u < int64(len(buf)); u += UnitSize {
		unit := buf[u:min(u+UnitSize, int64(len(buf)))]
		if _, err := d.WriteAt(unit, off+u); err == nil {
			continue
		}
		for i := int64(0); i < int64(len(unit)); i += bs {
			copy(one, unit[i:])
			if _, err := d.WriteAt(one, off+u+i); err != nil {
				bad(u + i)
			}
		}
	}
}
