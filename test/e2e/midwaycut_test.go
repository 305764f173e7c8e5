package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"ublkremap/test/logwrites"
	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// This file cuts the power in the middle of an operation: see test/powercut and test/logwrites.

// midwayCuts is at how many writes of an operation the power is cut.
const midwayCuts = 4

// writeLog is a log of all writes that reach a disk, which was blank at first.
type writeLog struct {
	dm    *vmtest.DM // the disk
	below string     // what it is on
	file  string
}

// logRoom is how large a log can be.
const logRoom = 1 << 30

func newWriteLog(t *testing.T, dir string) *writeLog {
	t.Helper()
	l := &writeLog{file: filepath.Join(dir, "log"),
		below: vmtest.NewLoop(t, midwaySize<<20, vmtest.LoopOptions{})}
	must(t, os.WriteFile(l.file, nil, 0o600))
	must(t, os.Truncate(l.file, logRoom))
	l.dm = vmtest.NewDM(t, vmtest.LogWritesTable(t, l.below,
		vmtest.NewLoop(t, 0, vmtest.LoopOptions{File: l.file})))
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mark notes where the log is. What was written before is durable then.
func (m *midway) mark(t *testing.T, text string) {
	t.Helper()
	if m.log != nil {
		f, err := os.OpenFile(m.Dev, os.O_RDWR, 0)
		must(t, err)
		must(t, f.Sync())
		must(t, f.Close())
		must(t, m.log.dm.Mark(text))
	}
}

// afterwards calls f with the set in use, in each state that the end of its server may have left.
// There is one unless the power was cut.
func (m *midway) afterwards(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if m.log == nil {
		f(t)
		return
	}
	m.d.Vanish(t)
	log := m.log.read(t)
	points := cutsBetween(log, log.Find("begun", 0), log.Find("middle", 0))
	if len(points) == 0 {
		t.Fatalf("nothing was written in the middle of it: %d entries", len(log.Entries))
	}
	rng := rig.Random(t)
	t.Logf("the power can be cut at %d writes", len(points))
	for range midwayCuts {
		at := points[rng.IntN(len(points))]
		t.Run(fmt.Sprintf("at %d of %d", at, len(log.Entries)), func(t *testing.T) {
			m.d.PutOn(t, vmtest.NewLoop(t, 0,
				vmtest.LoopOptions{File: m.log.image(t, log, at, rng)}))
			m.Start(t)
			f(t)
			m.Stop(t)
			m.Check(t)
			m.d.Vanish(t) // a second disk with the same set would be refused
		})
	}
	m.log.restore(t, log)
	m.d.PutOn(t, m.log.below)
}

// restore makes what the disk held after the orderly stop.
func (l *writeLog) restore(t *testing.T, log *logwrites.Log) {
	t.Helper()
	f, err := os.OpenFile(l.below, os.O_RDWR, 0)
	must(t, err)
	must(t, logwrites.NewPlayer(log, zeroed{f}).To(len(log.Entries)))
	must(t, f.Sync())
	must(t, f.Close())
}

// zeroed is a device on which zeroes are written.
type zeroed struct{ *os.File }

func (z zeroed) Zero(off, n int64) error {
	_, err := z.WriteAt(make([]byte, n), off)
	return err
}

// read takes the logged disk down, makes it blank and reads the log.
func (l *writeLog) read(t *testing.T) *logwrites.Log {
	t.Helper()
	l.dm.Remove(t) // writes the end of the log
	blank := rig.Open(t, l.below)
	zeroes := rig.Aligned(1 << 20)
	for at := range int64(midwaySize) {
		must(t, blank.Write(zeroes, at<<20))
	}
	blank.Close()
	f, err := os.Open(l.file)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	log, err := logwrites.Read(f, logRoom)
	must(t, err)
	if !log.Complete() {
		t.Fatalf("the log of %d entries is cut off", len(log.Entries))
	}
	return log
}

// cutsBetween lists the entries of flushes and FUA writes.
func cutsBetween(log *logwrites.Log, from, to int) (at []int) {
	for i := max(0, from); i < to; i++ {
		if log.Entries[i].Flags.Has(logwrites.Flush | logwrites.FUA) {
			at = append(at, i)
		}
	}
	return at
}

// holes is a file in which zeroes are holes.
type holes struct{ *os.File }

func (h holes) Zero(off, n int64) error {
	return unix.Fallocate(int(h.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

// image makes what the disk holds if its power is cut right before entry at completes: of what was
// not flushed by then anything may be there.
func (l *writeLog) image(t *testing.T, log *logwrites.Log, at int, rng *rand.Rand) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "cut")
	must(t, err)
	defer func() { must(t, f.Close()) }()
	must(t, f.Truncate(midwaySize<<20))
	base := log.Splice(at)
	must(t, logwrites.NewPlayer(log, holes{f}).To(base))
	var held []int
	for i := base; i <= at; i++ {
		held = append(held, i)
	}
	must(t, log.ApplySome(holes{f}, held, rng))
	must(t, f.Sync())
	return f.Name()
}
