package powercut

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ublkremap/test/logwrites"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// cutKind is what a disk holds besides what was flushed.
type cutKind string

const (
	cutAfter  cutKind = "after"  // a FUA write or a flush: nothing
	cutCached cutKind = "cached" // right before a flush completes: any part of what it flushes
	cutTorn   cutKind = "torn"   // in a FUA write: any of its sectors
	cutMark   cutKind = "mark"   // at a mark: any part of what had completed by then
)

// point is where the power is cut.
type point struct {
	kind cutKind
	// base is, for each disk, how many entries of its log are on the medium whole.
	base []int
	// acked is the last mark before the cut.
	acked int64
	// seq is the mark of a cutMark.
	seq  int64
	seed uint64
}

func (p point) describe(f *recording) string {
	var where []string
	for i, n := range p.base {
		where = append(where, fmt.Sprintf("log %d: %d of %d entries", i, n, len(f.logs[i].Entries)))
	}
	return fmt.Sprintf("%s, %s; acknowledged: %d of %d", p.kind, strings.Join(where, ", "), p.acked,
		f.last)
}

// number is the number of a mark that a marker has set; 0 for another one.
func number(e *logwrites.Entry) int64 {
	if !e.Flags.Has(logwrites.Mark) {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimPrefix(e.Mark, "sync"), 10, 64)
	return n
}

// choose draws points, in the order of the log, the end of it among them.
func (f *recording) choose(t testing.TB, count int) []point {
	t.Helper()
	var all []point
	if len(f.logs) == 1 {
		all = f.onOneDisk()
	} else {
		all = f.onTwoDisks(t)
	}
	byKind := map[cutKind][]point{}
	for _, p := range all {
		byKind[p.kind] = append(byKind[p.kind], p)
	}
	var kinds []cutKind
	for k := range byKind {
		kinds = append(kinds, k)
	}
	slices.Sort(kinds)
	if len(kinds) == 0 {
		t.Fatal("the log has no place to cut at")
	}
	var out []point
	for n := 0; len(out) < count-1; n++ {
		of := byKind[kinds[n%len(kinds)]]
		p := of[f.rng.IntN(len(of))]
		p.seed = f.rng.Uint64()
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b point) int { return cmp.Compare(a.base[0], b.base[0]) })
	end := point{kind: cutAfter, acked: f.last}
	for _, l := range f.logs {
		end.base = append(end.base, len(l.Entries))
	}
	return append(out, end)
}

func (f *recording) onOneDisk() []point {
	var all []point
	acked := int64(0)
	l := f.logs[0]
	for i := range l.Entries {
		e := &l.Entries[i]
		switch seq := number(e); {
		case seq != 0:
			acked = seq
			all = append(all, point{kind: cutMark, base: []int{i}, acked: acked, seq: seq})
		case e.Flags.Has(logwrites.Flush | logwrites.FUA):
			all = append(all, point{kind: cutAfter, base: []int{i + 1}, acked: acked})
			if s := l.Splice(i); s < i {
				all = append(all, point{kind: cutCached, base: []int{s}, acked: acked})
			}
			if e.Flags.Has(logwrites.FUA) && e.Len > l.SectorSize {
				all = append(all, point{kind: cutTorn, base: []int{i}, acked: acked})
			}
		}
	}
	return all
}

func (f *recording) onTwoDisks(t testing.TB) []point {
	t.Helper()
	var all []point
	for _, seq := range f.syncs {
		p := point{kind: cutAfter, acked: seq, seq: seq}
		for i, l := range f.logs {
			at := l.Find(fmt.Sprintf("sync%d", seq), 0)
			if at < 0 {
				t.Fatalf("log %d has no mark sync%d", i, seq)
			}
			p.base = append(p.base, at)
			held, err := l.Before(at, f.disks[i].isStamp(seq))
			if err != nil {
				t.Fatal(err)
			}
			if len(held) > 0 {
				p.kind = cutMark
			}
		}
		all = append(all, p)
	}
	return all
}

// play returns a player for each disk, at the beginning of its log.
func (f *recording) play(t testing.TB) []*logwrites.Player {
	t.Helper()
	var out []*logwrites.Player
	for i, l := range f.logs {
		out = append(out, logwrites.NewPlayer(l, openImage(t, f.images[i])))
	}
	return out
}

// replayCut makes what the disks hold after a cut and returns the images. A lying disk,
// unless nil, is asked of each entry whether a disk drops it although it was flushed.
func (f *recording) replayCut(t testing.TB, players []*logwrites.Player, p point,
	lyingDisk func(disk, entry int) bool) []string {
	t.Helper()
	rng := rand.New(rand.NewPCG(p.seed, 1))
	dir := t.TempDir()
	var out []string
	for i, l := range f.logs {
		scratch := filepath.Join(dir, fmt.Sprintf("disk%d", i))
		out = append(out, scratch)
		if lyingDisk != nil {
			copySparse(t, f.images[i], scratch)
			img := openImage(t, scratch)
			for n := range p.base[i] {
				if lyingDisk(i, n) {
					continue
				}
				if err := l.Apply(img, n); err != nil {
					t.Fatal(err)
				}
			}
			continue
		}
		if err := players[i].To(p.base[i]); err != nil {
			t.Fatal(err)
		}
		copySparse(t, f.images[i], scratch)
		img := openImage(t, scratch)
		var err error
		switch p.kind {
		case cutCached:
			var held []int
			for n := p.base[i]; !l.Entries[n].Flags.Has(logwrites.Flush); n++ {
				held = append(held, n)
			}
			err = l.ApplySome(img, held, rng)
		case cutTorn:
			err = l.ApplyTorn(img, p.base[i], rng)
		case cutMark:
			held, herr := l.Before(p.base[i], f.disks[i].isStamp(p.seq))
			if err = herr; err == nil {
				t.Logf("disk %d: %d writes in its cache", i, len(held))
				err = l.ApplySome(img, held, rng)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// look starts, mounts and checks what is on the images.
func (f *recording) look(t testing.TB, images []string, acked int64) *findings {
	t.Helper()
	var disks []*disk
	for i, file := range images {
		disks = append(disks, newDisk(t, file, f.disks[i].size, f.blockSize, f.disks[i].bad, ""))
	}
	f.place(disks)
	f.set.Start(t, f.flags()...)
	root := t.TempDir()
	found := &findings{}
	if err := unix.Mount(f.set.Dev, root, f.fs, 0, ""); err != nil {
		found.add("mount: %v\n%s", err, rig.KernelLog(20))
	} else {
		found = verify(root, f.objects, acked)
		vmtest.Unmount(t, root)
	}
	check := []string{"e2fsck", "-f", "-n", f.set.Dev}
	if f.fs == "xfs" {
		check = []string{"xfs_repair", "-n", f.set.Dev}
	}
	if r := rig.Exec(t, check[0], check[1:]...); r.Code != 0 {
		found.add("after the mount: %s", r)
	}
	if st := f.set.Status(t); st.Lost != 0 || st.Breaker.State != "closed" || st.Heals.Failed != 0 {
		found.add("status: %+v", st)
	}
	f.set.Stop(t)
	f.set.Check(t)
	return found
}

// ignoredFlushes replays a disk that ignored flushes: the checks must see it.
func (f *recording) ignoredFlushes(t *testing.T) {
	const back = 6
	l := f.logs[0]
	from, at := l.Find(fmt.Sprint(f.last-back), 0), l.Find(fmt.Sprint(f.last), 0)
	if from < 0 || at < 0 {
		t.Fatalf("no marks %d and %d", f.last-back, f.last)
	}
	lyingDisk := func(_, n int) bool { return n > from && l.Entries[n].Len > 0 }
	p := point{kind: cutAfter, base: []int{at}, acked: f.last}
	found := f.look(t, f.replayCut(t, nil, p, lyingDisk), p.acked)
	if len(found.errs) == 0 {
		t.Errorf("the writes of %d acknowledged operations are gone, and no check has noticed",
			back)
	}
	for _, err := range found.errs {
		t.Logf("as it must: %v", err)
	}
}
