package metadata

// inChunks calls f for one part of a span after the other, each as long as buf at
// most, of which f gets as much.
func inChunks(buf []byte, s span, f func(buf []byte, off int64)) {
	for off := s.from; off < s.to; off += int64(len(buf)) {
		f(buf[:min(int64(len(buf)), s.to-off)], off)
	}
}

// readAround reads buf at off, and if that fails its units, and of those that
// fail the blocks, which are as long as one. What cannot be read is zero, and
// bad is called with where in buf it is. Both buffers are aligned.
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

// writeAround writes buf at off, and if that fails its units, and of those
// that fail the blocks. bad is called with where in buf those are that do not take it.
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
