package logwrites

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
)

// writer makes logs as the kernel does.
type writer struct {
	sector int64
	n      uint64
	body   []byte
}

func (w *writer) entry(flags Flags, sector, count int64, mark string, data []byte) {
	h := make([]byte, w.sector)
	le := binary.LittleEndian
	le.PutUint64(h[0:], uint64(sector))
	le.PutUint64(h[8:], uint64(count))
	le.PutUint64(h[16:], uint64(flags))
	le.PutUint64(h[24:], uint64(len(mark)))
	copy(h[headerSize:], mark)
	w.body = append(append(w.body, h...), data...)
	w.n++
}

// write adds a write of whole sectors filled with a byte.
func (w *writer) write(flags Flags, sector, count int64, fill byte) {
	w.entry(flags, sector, count, "", bytes.Repeat([]byte{fill}, int(count*w.sector)))
}

func (w *writer) mark(text string) { w.entry(Mark, 0, 0, text, nil) }

func (w *writer) bytes() []byte {
	s := make([]byte, w.sector)
	le := binary.LittleEndian
	le.PutUint64(s[0:], magic)
	le.PutUint64(s[8:], version)
	le.PutUint64(s[16:], w.n)
	le.PutUint32(s[24:], uint32(w.sector))
	return append(s, w.body...)
}

func read(t testing.TB, b []byte) *Log {
	t.Helper()
	l, err := Read(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// sample has one of everything.
func sample(sector int64) *writer {
	w := &writer{sector: sector}
	w.write(FUA, 8, 2, 1)                 // 0
	w.write(0, 0, 4, 2)                   // 1
	w.write(Metadata, 2, 4, 3)            // 2
	w.entry(Discard, 100, 8, "", nil)     // 3
	w.entry(Flush, 0, 0, "", nil)         // 4
	w.mark("one")                         // 5
	w.write(Flush|FUA|Metadata, 20, 1, 4) // 6
	w.write(0, 30, 1, 5)                  // 7
	w.mark(endMark)                       // 8
	return w
}

func TestRead(t *testing.T) {
	for _, sector := range []int64{512, 4096} {
		l := read(t, sample(sector).bytes())
		want := []Entry{
			{Flags: FUA, Off: 8 * sector, Len: 2 * sector},
			{Len: 4 * sector},
			{Flags: Metadata, Off: 2 * sector, Len: 4 * sector},
			{Flags: Discard, Off: 100 * sector, Len: 8 * sector},
			{Flags: Flush},
			{Flags: Mark, Mark: "one"},
			{Flags: Flush | FUA | Metadata, Off: 20 * sector, Len: sector},
			{Off: 30 * sector, Len: sector},
			{Flags: Mark, Mark: endMark},
		}
		got := slices.Clone(l.Entries)
		for i := range got {
			got[i].at = 0
		}
		if !slices.Equal(got, want) || l.SectorSize != sector || !l.Complete() {
			t.Errorf("sector %d, complete %v:\n%v\nwant\n%v", l.SectorSize, l.Complete(), got, want)
		}
		for i, fill := range map[int]byte{0: 1, 1: 2, 2: 3, 6: 4, 7: 5} {
			data, err := l.Data(i)
			if err != nil || int64(len(data)) != l.Entries[i].Len ||
				bytes.Count(data, []byte{fill}) != len(data) {
				t.Errorf("entry %d: %d bytes, want all %d (%v)", i, len(data), fill, err)
			}
		}
		for _, i := range []int{3, 4, 5} {
			if data, err := l.Data(i); data != nil || err != nil {
				t.Errorf("entry %d has data: %v, %v", i, data, err)
			}
		}
		if l.Find("one", 0) != 5 || l.Find("one", 6) != -1 || l.Find("two", 0) != -1 {
			t.Error("Find finds something else")
		}
		for i, want := range map[int]int{0: 0, 4: 1, 6: 6, 8: 7} {
			if got := l.Splice(i); got != want {
				t.Errorf("Splice(%d) = %d, want %d", i, got, want)
			}
		}
	}
}

func TestRefused(t *testing.T) {
	whole := func() *writer { return sample(512) }
	tests := map[string]struct {
		make func() []byte
		want error
	}{
		"empty":   {func() []byte { return nil }, ErrNoLog},
		"magic":   {func() []byte { b := whole().bytes(); b[3]++; return b }, ErrNoLog},
		"version": {func() []byte { b := whole().bytes(); b[8]++; return b }, ErrNoLog},
		"sector 0": {func() []byte { b := whole().bytes(); clear(b[24:28]); return b },
			ErrDamaged},
		"sector 768": {func() []byte { b := whole().bytes(); b[24], b[25] = 0, 3; return b },
			ErrDamaged},
		"count":        {func() []byte { b := whole().bytes(); b[22] = 1; return b }, ErrDamaged},
		"one too many": {func() []byte { b := whole().bytes(); b[16]++; return b }, ErrDamaged},
		"cut in data": {func() []byte {
			w := &writer{sector: 512}
			w.write(0, 0, 4,
				1)
			return w.bytes()[:2000]
		}, ErrDamaged},
		"unknown flag": {func() []byte { w := whole(); w.write(1<<5, 0, 1, 1); return w.bytes() },
			ErrDamaged},
		"empty write": {func() []byte { w := whole(); w.write(FUA, 7, 0, 1); return w.bytes() },
			ErrDamaged},
		"offset": {func() []byte { w := whole(); w.write(0, 1<<54, 1, 1); return w.bytes() },
			ErrDamaged},
		"length": {func() []byte {
			w := whole()
			w.entry(Discard, 0, 1<<62, "",
				nil)
			return w.bytes()
		}, ErrDamaged},
		"mark and data": {func() []byte {
			w := whole()
			w.entry(Mark, 0, 1, "x",
				make([]byte, 512))
			return w.bytes()
		}, ErrDamaged},
		"inline data": {func() []byte {
			w := whole()
			w.entry(0, 0, 1, "x",
				make([]byte, 512))
			return w.bytes()
		}, ErrDamaged},
		"long mark": {func() []byte {
			w := whole()
			w.mark(string(bytes.Repeat([]byte("x"),
				481)))
			return w.bytes()
		}, ErrDamaged},
	}
	for name, c := range tests {
		b := c.make()
		if l, err := Read(bytes.NewReader(b), int64(len(b))); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v; want %v", name, l, err, c.want)
		}
	}
}

// memory is an image.
type memory []byte

func (m memory) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(m)) {
		return 0, io.ErrShortWrite
	}
	return copy(m[off:], p), nil
}

func (m memory) Zero(off, n int64) error { clear(m[off : off+n]); return nil }

func TestPlayer(t *testing.T) {
	l := read(t, sample(512).bytes())
	img := make(memory, 120*512)
	for i := range img {
		img[i] = 9
	}
	p := NewPlayer(l, img)
	steps := []struct {
		to   int
		want map[int]byte // by sector
	}{
		{0, map[int]byte{0: 9, 8: 9}},
		{1, map[int]byte{7: 9, 8: 1, 9: 1, 10: 9}},
		{2, map[int]byte{0: 2, 3: 2, 4: 9}},
		{4, map[int]byte{0: 2, 1: 2, 2: 3, 5: 3, 6: 9, 99: 9, 100: 0, 107: 0, 108: 9}},
		{len(l.Entries), map[int]byte{20: 4, 30: 5}},
	}
	for _, s := range steps {
		if err := p.To(s.to); err != nil {
			t.Fatal(err)
		}
		for n, want := range s.want {
			if got := img[n*512 : (n+1)*512]; bytes.Count(got, []byte{want}) != 512 {
				t.Errorf("to %d: sector %d begins with %d, want %d throughout", s.to, n, got[0],
					want)
			}
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("a player went backwards")
		}
	}()
	_ = p.To(1)
}

// TestTorn: every sector is the old or the new one, whole, and both occur.
func TestTorn(t *testing.T) {
	w := &writer{sector: 512}
	w.write(FUA, 4, 64, 1)
	w.entry(Discard, 4, 64, "", nil)
	l := read(t, w.bytes())
	rng := rand.New(rand.NewPCG(1, 2))
	for i, fill := range []byte{1, 0} {
		img := make(memory, 80*512)
		for i := range img {
			img[i] = 9
		}
		if err := l.ApplyTorn(img, i, rng); err != nil {
			t.Fatal(err)
		}
		seen := map[byte]int{}
		for n := 0; n < 80; n++ {
			s := img[n*512 : (n+1)*512]
			if bytes.Count(s, s[:1]) != 512 || (n < 4 || n >= 68) && s[0] != 9 {
				t.Errorf("entry %d: sector %d is torn, or was not asked for", i, n)
			}
			if n >= 4 && n < 68 {
				seen[s[0]]++
			}
		}
		if seen[9] < 10 || seen[fill] < 10 || seen[9]+seen[fill] != 64 {
			t.Errorf("entry %d: %v", i, seen)
		}
	}
}

// TestSome: of three writes to one place every outcome occurs, also that none is applied. An older
// write never replaces a newer one that was applied.
func TestSome(t *testing.T) {
	w := &writer{sector: 512}
	for fill := byte(1); fill <= 3; fill++ {
		w.write(0, 0, 1, fill)
	}
	l := read(t, w.bytes())
	rng := rand.New(rand.NewPCG(3, 4))
	seen := map[byte]int{}
	for range 500 {
		img := make(memory, 512)
		if err := l.ApplySome(img, []int{0, 1, 2}, rng); err != nil {
			t.Fatal(err)
		}
		seen[img[0]]++
	}
	if len(seen) != 4 || seen[3] <= seen[1] {
		t.Errorf("%v", seen)
	}
}

func TestBefore(t *testing.T) {
	w := &writer{sector: 512}
	const place = 99
	stamp := func(e *Entry, data []byte) bool { return e.Off == place*512 && data[0] == 7 }
	w.write(0, 1, 1, 1)           // 0
	w.write(0, place, 1, 6)       // 1: an older stamp
	w.entry(Flush, 0, 0, "", nil) // 2
	w.mark("at")                  // 3
	w.write(FUA, 2, 1, 2)         // 4
	w.write(0, 3, 1, 3)           // 5
	w.entry(Discard, 4, 1, "", nil)
	w.write(0, place, 1, 7) // 7
	w.write(0, 5, 1, 5)     // 8
	w.entry(Flush, 0, 0, "", nil)
	w.mark("later") // 10: the stamp is flushed already
	l := read(t, w.bytes())
	for mark, want := range map[string][]int{"at": {5, 6}, "later": nil} {
		got, err := l.Before(l.Find(mark, 0), stamp)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("before mark %q: %v, want %v (%v)", mark, got, want, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(sample(512).bytes())
	w := &writer{sector: 1024}
	w.mark("")
	f.Add(w.bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		size := int64(len(b))
		l, err := Read(bytes.NewReader(b), size)
		if err != nil {
			if !errors.Is(err, ErrNoLog) && !errors.Is(err, ErrDamaged) {
				t.Errorf("error of no known kind: %v", err)
			}
			return
		}
		for i, e := range l.Entries {
			if e.Off < 0 || e.Len < 0 || e.Off+e.Len < 0 || e.Off%l.SectorSize != 0 ||
				e.Len%l.SectorSize != 0 || e.String() == "" {
				t.Errorf("entry %d: %+v", i, e)
			}
			if data, err := l.Data(i); err != nil || data != nil && int64(len(data)) != e.Len {
				t.Errorf("entry %d: %d bytes of %d: %v", i, len(data), e.Len, err)
			}
			if s := l.Splice(i); s < 0 || s > i {
				t.Errorf("Splice(%d) = %d", i, s)
			}
		}
		_ = l.Complete()
	})
}
