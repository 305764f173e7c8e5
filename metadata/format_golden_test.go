package metadata

import (
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/uuid"
)

// writeGolden makes the golden images that do not exist yet. It never rewrites one, because
// existing disks do not change either.
var writeGolden = flag.Bool("write-golden", false, "write golden images that do not exist")

// golden are the images of format version 4, each with a history: commits, an
// unknown one that was superseded, checkpoints, a start, and a few records
// after the last checkpoint.
var golden = []struct {
	name string
	p    PlanParams
	two  bool // of before compatThird: the first start adds superblocks
	grow bool // mirrors get larger slots after the first checkpoint
	// of before compatPartition: the first start adds the partition
	plain bool
}{
	{name: "v4-alone-512", p: PlanParams{BackingSize: 16 << 20, BlockSize: 512}, plain: true},
	{name: "v4-pair-4096", p: PlanParams{BackingSize: 16 << 20, BlockSize: 4096,
		SpareBytes: 1 << 20, SpareDeviceSize: 8 << 20, KeepTail: true}, two: true, plain: true},
	{name: "v4-pair-4096-three", p: PlanParams{BackingSize: 16 << 20, BlockSize: 4096,
		SpareBytes: 1 << 20, SpareDeviceSize: 8 << 20, KeepTail: true}, plain: true},
	{name: "v4-pair-512-tail", p: PlanParams{BackingSize: 16<<20 + 512*5, BlockSize: 512,
		SpareBytes: 1 << 20, SpareDeviceSize: 9 << 20}, plain: true},
	{name: "v4-alone-512-slots", p: PlanParams{BackingSize: 16 << 20, BlockSize: 512,
		SpareBytes: 1 << 20, TableRoom: 16}, grow: true, plain: true},
	{name: "v4-alone-512-partition", p: PlanParams{BackingSize: 16 << 20, BlockSize: 512}},
	{name: "v4-pair-4096-partition", p: PlanParams{BackingSize: 16 << 20, BlockSize: 4096,
		SpareBytes: 1 << 20, SpareDeviceSize: 12 << 20, DeviceBlockSizes: [2]int{4096, 512}}},
}

func planGolden(t *testing.T, name string, p PlanParams) *Layout {
	p.Name, p.Created = name, 1_700_000_000
	p.UUID = uuid.NewSHA1(uuid.NameSpaceOID, []byte(name))
	p.DeviceUUIDs = [2]uuid.UUID{uuid.NewSHA1(p.UUID, []byte("backing")),
		uuid.NewSHA1(p.UUID, []byte("spare"))}
	plan, err := Plan(p)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// plannedThen is the layout that an image was created with: Plan may lay out a new set in another
// way by now.
func plannedThen(t *testing.T, disks []*memDisk) *Layout {
	sb, err := Probe(disks[0])
	if err != nil {
		t.Fatal(err)
	}
	sb.Generation, sb.Epoch, sb.PrevEpoch, sb.Session, sb.Started = 1, 1, 0, 0, 0
	plan, err := newLayout(sb)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func makeGolden(t *testing.T, plan *Layout, grow bool) []*memDisk {
	var disks []*memDisk
	for _, d := range plan.Devices() {
		disks = append(disks, newMemDisk(d.Size))
	}
	time := plan.sb.Created
	if err := Create(devices(disks), plan,
		[]Entry{{Unit: 3, Spare: 0, Count: 2, Mask: 1, State: StateMapped, Cause: CauseImport,
			Time: time}}); err != nil {
		t.Fatal(err)
	}
	for session := range uint64(2) {
		img, err := Load(devices(disks))
		if err != nil {
			t.Fatal(err)
		}
		live, err := img.Table()
		if err != nil {
			t.Fatal(err)
		}
		c, err := NewCommitter(img, live, Options{Session: 0xC0FFEE + session})
		if err != nil {
			t.Fatal(err)
		}
		run := func() {
			if rs := RunOps(c, devices(disks), nil); len(rs) != 1 ||
				rs[0].Outcome != OutcomeDurable {
				t.Fatal(rs)
			}
		}
		commit := func(es ...Entry) {
			time++
			for i := range es {
				es[i].Time = time
			}
			if _, err := c.Commit(es); err != nil {
				t.Fatal(err)
			}
			run()
			for _, e := range es {
				if err := live.Apply(e); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, err := c.Open(time); err != nil {
			t.Fatal(err)
		}
		run()
		base := 100 * uint64(session+1)
		for i := range uint64(5) {
			commit(Entry{Unit: base + 2*i, Spare: uint32(10*(session+1) + i), Count: 1, Mask: 1,
				State: StateMapped, Cause: CauseWrite})
		}
		commit(
			Entry{Spare: 8, Count: 2, State: StateRetired, Cause: CauseSpare},
			Entry{Unit: base + 20, Count: 3, Mask: 1, State: StatePending, Cause: CauseRead},
		)
		if session == 0 {
			if _, err := c.Checkpoint(); err != nil {
				t.Fatal(err)
			}
			run()
		}
		if session == 0 && grow {
			was := c.TableCapacity()
			c.Grow()
			if RunOps(c, devices(disks), nil); c.TableCapacity() <= was {
				t.Fatalf("the slots are as they were: %+v", c.Status())
			}
		}
		// A commit that no mirror takes, though one of them has it.
		time++
		if _, err := c.Commit([]Entry{{Unit: base + 30, Spare: 30, Count: 1, Mask: 1,
			State: StateMapped, Cause: CauseWrite, Time: time}}); err != nil {
			t.Fatal(err)
		}
		for ops := c.Ops(); len(ops) > 0; ops = c.Ops() {
			for _, op := range ops {
				if op.Device == 0 && op.Offset < 1<<20 {
					disks[0].store(memWrite{op.Offset, op.Data}, nil)
				}
				c.Done(op.ID, errMedium)
			}
		}
		if rs := c.Results(); len(rs) != 1 || rs[0].Outcome != OutcomeUnknown {
			t.Fatal(rs)
		}
		restate := []Entry{
			{Unit: base + 30, Count: 1, Mask: 1, State: StateLost, Cause: CauseUnknown, Time: time},
			{Spare: 30, Count: 1, State: StateQuarantined, Cause: CauseUnknown, Time: time},
		}
		if _, err := c.Resume(restate); err != nil {
			t.Fatal(err)
		}
		run()
		for _, e := range restate {
			if err := live.Apply(e); err != nil {
				t.Fatal(err)
			}
		}
		commit(Entry{Unit: 3, Count: 1, Mask: 1, State: StateHome, Cause: CauseRetest})
		commit(Entry{Spare: 9, Count: 1, State: StateAvailable, Cause: CauseOperator})
	}
	return disks
}

// flatten and unflatten turn disks into files and back.
func (d *memDisk) flatten() []byte {
	b := make([]byte, d.size)
	for at, p := range d.pages {
		copy(b[at*PageSize:], p[:])
	}
	return b
}

func unflatten(b []byte) *memDisk {
	d := newMemDisk(int64(len(b)))
	for i := 0; i+PageSize <= len(b); i += PageSize {
		if p := [PageSize]byte(b[i:]); p != [PageSize]byte{} {
			d.pages[int64(i/PageSize)] = &p
		}
	}
	return d
}

func goldenFile(name string, dev int) string {
	return filepath.Join("testdata", fmt.Sprintf("%s.%d.img.gz", name, dev))
}

func readGolden(t testing.TB, name string) []*memDisk {
	var disks []*memDisk
	for dev := 0; ; dev++ {
		f, err := os.Open(goldenFile(name, dev))
		if errors.Is(err, fs.ErrNotExist) && dev > 0 {
			return disks
		}
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		disks = append(disks, unflatten(b))
	}
}

// create writes a file that must not exist.
func create(t *testing.T, name string, b []byte) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err == nil {
		_, err = f.Write(b)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal("a golden file is never rewritten: ", err)
	}
}

// TestGolden loads every image that was ever written in this format version, and compares it with
// the dump from that time. If the test fails, the code is wrong, not the image.
func TestGolden(t *testing.T) {
	for _, g := range golden {
		t.Run(g.name, func(t *testing.T) {
			dump := filepath.Join("testdata", g.name+".json")
			if _, err := os.Stat(goldenFile(g.name, 0)); *writeGolden &&
				errors.Is(err, fs.ErrNotExist) {
				disks := makeGolden(t, planGolden(t, g.name, g.p), g.grow)
				for i, d := range disks {
					var b bytes.Buffer
					z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
					if _, err := z.Write(d.flatten()); err != nil {
						t.Fatal(err)
					}
					if err := z.Close(); err != nil {
						t.Fatal(err)
					}
					create(t, goldenFile(g.name, i), b.Bytes())
				}
				create(t, dump, withoutSum(dumped(t, disks)))
			}
			disks := readGolden(t, g.name)
			want, err := os.ReadFile(dump)
			if err != nil {
				t.Fatal(err)
			}
			if got := dumped(t, disks); !bytes.Equal(withoutSum(got), want) {
				t.Errorf("the dump differs from %s:\n%s", dump, got)
			}
			if r, err := Check(devices(disks)); err != nil || r.Worst() == SeverityWarning ||
				!r.OK() {
				t.Errorf("check: %v\n%s", err, r.String())
			}
			switch {
			case g.two:
				getsThird(t, disks)
				return
			case g.grow:
				staysGrown(t, disks, planGolden(t, g.name, g.p))
				return
			}
			// An image that is written today is the same, byte for byte.
			for i, d := range makeGolden(t, plannedThen(t, disks), false) {
				if g.plain {
					withoutPartition(t, d)
					withoutPartition(t, disks[i])
				}
				if !bytes.Equal(d.flatten(), disks[i].flatten()) {
					t.Errorf("device %d: the same history gives another image today", i)
				}
			}
		})
	}
}

// withoutPartition changes the superblocks on a disk to those of versions without the partition, or
// even without the partition table.
func withoutPartition(t *testing.T, d *memDisk) {
	for _, page := range d.pages {
		if !sealed(page[:], magicSuperblock) {
			continue
		}
		sb, err := decodeSuperblock(page[:])
		if err != nil {
			t.Fatal(err)
		}
		sb.Compat &^= compatSignature | compatPartition
		sb.encode(page[:], sb.DeviceIndex)
	}
}

// startedOnce starts a set and returns its Committer, and the table that it had before.
func startedOnce(t *testing.T, disks []*memDisk) (*Committer, *Table) {
	t.Helper()
	img, err := Load(devices(disks))
	if err != nil {
		t.Fatal(err)
	}
	was, err := img.Table()
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCommitter(img, was, Options{Session: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Open(1); err != nil {
		t.Fatal(err)
	}
	if rs := RunOps(c, devices(disks), nil); len(rs) != 1 || rs[0].Outcome != OutcomeDurable {
		t.Fatal(rs)
	}
	return c, was
}

// getsThird starts a set that was made with two superblocks on each device.
// Afterwards there are three, and the table is as it was.
func getsThird(t *testing.T, disks []*memDisk) {
	c, was := startedOnce(t, disks)
	if s := c.Status(); s.Superblocks != 3 || s.BadSuperblocks != 0 {
		t.Errorf("after a start: %+v", s)
	}
	img, err := Load(devices(disks))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(img.newestCopies); n != 3*len(disks) {
		t.Errorf("after a start a load finds %d superblocks on %d devices", n, len(disks))
	}
	if now, err := img.Table(); err != nil || !sameTable(now, was) {
		t.Errorf("after a start the table is another: %v", err)
	}
	if r, err := Check(devices(disks)); err != nil || r.Worst() == SeverityWarning || !r.OK() {
		t.Errorf("check after a start: %v\n%s", err, r.String())
	}
}

// staysGrown starts a set whose mirrors have larger slots. Afterwards they are the same, and so is
// the table. A version that does not know the feature bit refuses the set.
func staysGrown(t *testing.T, disks []*memDisk, plan *Layout) {
	sb, err := Probe(disks[0])
	if err != nil {
		t.Fatal(err)
	}
	if sb.Incompat != incompatSlots || sb.tableCapacity() <= plan.TableCapacity() {
		t.Errorf("incompat bits %#x, %d entries", sb.Incompat, sb.tableCapacity())
	}
	c, was := startedOnce(t, disks)
	if c.TableCapacity() != sb.tableCapacity() {
		t.Errorf("%d entries after a start, %d before", c.TableCapacity(), sb.tableCapacity())
	}
	img, err := Load(devices(disks))
	if err != nil {
		t.Fatal(err)
	}
	if now, err := img.Table(); err != nil || !sameTable(now, was) {
		t.Errorf("after a start the table is another: %v", err)
	}
	if r, err := Check(devices(disks)); err != nil || r.Worst() == SeverityWarning || !r.OK() {
		t.Errorf("check after a start: %v\n%s", err, r.String())
	}
}

// withoutSum is a dump as older versions printed it, whose dumps could not be restored. These
// versions made the golden dumps.
func withoutSum(dump []byte) []byte {
	return regexp.MustCompile(`,\n "(checksum|sum)": "[0-9a-f]{16}"`).ReplaceAll(dump, nil)
}

func dumped(t testing.TB, disks []*memDisk) []byte {
	d, err := Dump(devices(disks))
	if err != nil || d.Error != "" {
		t.Fatal(err, d.Error)
	}
	var b bytes.Buffer
	if err := d.WriteJSON(&b, " "); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
