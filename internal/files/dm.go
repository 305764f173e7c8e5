package files

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"ublkremap/internal/mountinfo"
)

// target is one line of a table of device mapper
// (Documentation/admin-guide/device-mapper).
type target struct {
	start, size int64 // bytes of the device that the table makes
	kind        string
	devices     []uint64 // that it is made of
	from        int64    // linear, crypt: byte of the device at which it begins
	// follow returns where pieces of a device that it is made of are on the one that it makes. It
	// is nil if that is not known.
	follow func(dev uint64, pieces []piece) []piece
}

func (t *target) uses(dev uint64) bool { return slices.Contains(t.devices, dev) }

// dmTable reads the table of a device. dmsetup hides the keys of encrypted ones.
func (f *finder) dmTable(name string) ([]target, error) {
	out, err := f.output("dmsetup", "table", name)
	if err != nil {
		return nil, err
	}
	return parseTable(out)
}

func parseTable(text string) (targets []target, err error) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 3 {
			return nil, fmt.Errorf("dmsetup: a table with the line %q", strings.TrimSpace(line))
		}
		start, err1 := sectors(words[0])
		size, err2 := sectors(words[1])
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("dmsetup: a table with the line %q", strings.TrimSpace(line))
		}
		t := target{start: start, size: size, kind: words[2]}
		for _, w := range words[3:] {
			if dev, ok := mountinfo.ParseDev(w); ok && strings.Contains(w, ":") {
				t.devices = append(t.devices, dev)
			}
		}
		t.place(words[3:])
		targets = append(targets, t)
	}
	return targets, nil
}

func sectors(word string) (int64, error) {
	n, err := strconv.ParseUint(word, 10, 53)
	return int64(n) * 512, err
}

// place finds out how a target places its blocks. linear: DEVICE OFFSET. crypt: CIPHER KEY
// IV_OFFSET DEVICE OFFSET. striped: NUMBER CHUNK [DEVICE OFFSET]…
func (t *target) place(args []string) {
	switch {
	case t.kind == "linear" && len(args) >= 2:
		t.straight(args[0], args[1])
	case t.kind == "crypt" && len(args) >= 5:
		t.straight(args[3], args[4])
	case t.kind == "striped" && len(args) >= 4:
		t.striped(args)
	}
}

func (t *target) straight(device, offset string) {
	dev, ok := mountinfo.ParseDev(device)
	from, err := sectors(offset)
	if !ok || err != nil {
		return
	}
	t.devices, t.from = []uint64{dev}, from
	start, size := t.start, t.size
	t.follow = func(_ uint64, pieces []piece) []piece {
		return above(pieces, from, from+size, start)
	}
}

func (t *target) striped(args []string) {
	n, err := strconv.Atoi(args[0])
	chunk, err2 := sectors(args[1])
	if err != nil || err2 != nil || n < 1 || chunk < 1 || len(args) < 2+2*n {
		return
	}
	starts := make([]int64, n)
	devs := make([]uint64, n)
	for i := range n {
		dev, ok := mountinfo.ParseDev(args[2+2*i])
		from, err := sectors(args[3+2*i])
		if !ok || err != nil {
			return
		}
		devs[i], starts[i] = dev, from
	}
	start, each := t.start, t.size/int64(n)
	t.follow = func(dev uint64, pieces []piece) (out []piece) {
		for i := range n {
			if devs[i] != dev {
				continue
			}
			for _, p := range above(pieces, starts[i], starts[i]+each, 0) {
				for p.size > 0 {
					row, in := p.at/chunk, p.at%chunk
					size := min(p.size, chunk-in)
					at := start + (row*int64(n)+int64(i))*chunk + in
					out = append(out, piece{p.top, at, size})
					p = piece{p.top + size, p.at + size, p.size - size}
				}
			}
		}
		slices.SortFunc(out, func(a, b piece) int { return int(min(1, max(-1, a.at-b.at))) })
		return out
	}
}
