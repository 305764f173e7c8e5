package metadata

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/iotest"
)

func encoded(t testing.TB, b *Backup) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := b.Encode(&buf); err != nil {
		t.Fatal(err)
	}
	if int64(buf.Len()) != b.Bytes() {
		t.Fatalf("%d bytes, said %d", buf.Len(), b.Bytes())
	}
	return buf.Bytes()
}

func backupOf(t testing.TB, disks []*memDisk) *Backup {
	t.Helper()
	img, err := Load(devices(disks))
	if err != nil {
		t.Fatal(err)
	}
	b, err := img.Backup(42)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBackup(t *testing.T) {
	for _, tc := range worlds {
		w := history(t, tc.p, 400, false)
		want := listed(w.table(w.base))
		b := backupOf(t, w.disks)
		file := encoded(t, b)
		got, err := DecodeBackup(iotest.OneByteReader(bytes.NewReader(file)))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(listed(got.table), want) || got.tip != w.c.durable || got.Taken != 42 ||
			got.Live || got.Table != b.Table ||
			len(got.Superblock.Devices) != len(w.disks) || got.Superblock.UUID != w.plan.sb.UUID ||
			got.Superblock.Name != "w" {
			t.Errorf("%+v%s", got, diff(want, listed(got.table)))
		}
		if !bytes.Equal(encoded(t, got), file) {
			t.Error("it is another file the second time")
		}
		// Every byte of every page is covered by a sum. Any cut or addition is noticed.
		for at := 0; at < len(file); at += 1 + w.r.IntN(97) {
			bad := bytes.Clone(file)
			bad[at] ^= 1 << w.r.IntN(8)
			if _, err := DecodeBackup(bytes.NewReader(bad)); !errors.Is(err, ErrBackup) {
				t.Fatalf("byte %d changed: %v", at, err)
			}
			if _, err := DecodeBackup(bytes.NewReader(file[:at])); !errors.Is(err, ErrBackup) {
				t.Fatalf("cut at %d: %v", at, err)
			}
		}
		if _, err := DecodeBackup(bytes.NewReader(append(bytes.Clone(file), 0))); !errors.Is(err,
			ErrBackup) {
			t.Error(err)
		}
		if _, err := DecodeBackup(iotest.ErrReader(errMedium)); !errors.Is(err, errMedium) {
			t.Error(err)
		}
		newer := bytes.Clone(file)
		newer[40]++
		seal(newer[:PageSize])
		if _, err := DecodeBackup(bytes.NewReader(newer)); !errors.Is(err, ErrUnsupported) {
			t.Error(err)
		}
		// Pages in another order, each whole.
		if len(file) >= 4*PageSize {
			mixed := slices.Concat(file[:2*PageSize], file[3*PageSize:4*PageSize],
				file[2*PageSize:3*PageSize], file[4*PageSize:])
			if _, err := DecodeBackup(bytes.NewReader(mixed)); !errors.Is(err, ErrBackup) {
				t.Error(err)
			}
		}
		if err := b.Encode(failingWriter{}); !errors.Is(err, errMedium) {
			t.Error(err)
		}
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errMedium }

// TestGoldenBackup: the backups of the golden images are these files, byte for byte, in every
// version.
func TestGoldenBackup(t *testing.T) {
	for _, g := range golden {
		path := filepath.Join("testdata", g.name+".backup")
		disks := readGolden(t, g.name)
		file := encoded(t, backupOf(t, disks))
		if _, err := os.Stat(path); *writeGolden && errors.Is(err, fs.ErrNotExist) {
			if err := os.WriteFile(path, file, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		stored, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(stored, file) {
			t.Errorf("%s: a backup of the same set is another file now", g.name)
		}
		b, err := DecodeBackup(bytes.NewReader(stored))
		if err != nil {
			t.Fatal(err)
		}
		if set, err := BackupOf(bytes.NewReader(stored)); err != nil || set != b.Superblock.UUID {
			t.Error(set, err)
		}
		if plan, err := PlanRestore(devices(disks), b); err != nil || len(plan.Steps) != 0 {
			t.Errorf("%s: %v %q", g.name, err, plan.Steps)
		}
	}
}

// slowSource gives few entries at a time, so that a backup of a live set takes
// several snapshots.
type slowSource struct{ *Table }

func (s slowSource) Entries(cursor uint64, dst []Entry) (int, uint64, bool) {
	return s.Table.Entries(cursor, dst[:10])
}

// TestCollect: a backup of a live set is that of one moment, whatever is
// committed meanwhile.
func TestCollect(t *testing.T) {
	w := history(t, smallParams(512, 0), 401, false)
	w.c.src = slowSource{w.live}
	parts, moved := 0, 0
	ask := func(cursor uint64) (Snapshot, error) {
		// Now and then a heal comes in between, but only a few times.
		if parts++; parts%5 == 0 && moved < 7 {
			moved++
			w.commit()
			w.settle()
		}
		return w.c.Snapshot(cursor)
	}
	b, err := Collect(9, ask)
	if err != nil {
		t.Fatal(err)
	}
	if want := listed(w.table(w.base)); !slices.Equal(listed(b.table), want) ||
		b.tip != w.c.durable ||
		!b.Live || b.Taken != 9 || moved < 3 {
		t.Errorf("%+v, %d changes%s", b, moved, diff(want, listed(b.table)))
	}
	w.c.src = slowSource{w.live}
	if _, err := Collect(9, func(cursor uint64) (Snapshot, error) {
		w.commit()
		w.settle()
		return w.c.Snapshot(cursor)
	}); !errors.Is(err, ErrChanging) {
		t.Error(err)
	}
	if _, err := Collect(9, func(uint64) (Snapshot, error) {
		return Snapshot{},
			io.ErrClosedPipe
	}); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	for _, f := range []func(*Snapshot){
		func(s *Snapshot) { s.Superblock = s.Superblock[:7] },
		func(s *Snapshot) { s.Superblock[500] ^= 1 },
		func(s *Snapshot) { s.Entries = s.Entries[1:] }, func(s *Snapshot) {
			s.Entries,
				s.Done = nil, false
		},
		func(s *Snapshot) { s.Entries[21] = 99 }, func(s *Snapshot) { s.Entries[23] = 1 },
	} {
		if _, err := Collect(9, func(cursor uint64) (Snapshot, error) {
			s, err := w.c.Snapshot(cursor)
			f(&s)
			return s, err
		}); !errors.Is(err, ErrBackup) {
			t.Error(err)
		}
	}
	img, err := Load(devices(w.disks))
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCommitter(img, w.live, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Snapshot(0); !errors.Is(err, ErrNotOpen) {
		t.Error(err)
	}
}

// TestCollectDecodesByVersion: the entries of a snapshot are decoded by the version of its
// superblock.
func TestCollectDecodesByVersion(t *testing.T) {
	w := history(t, smallParams(512, 0), 402, false)
	const next = Version + 1
	read := 0
	other := *versions[Version]
	other.entry = func(b []byte) (Entry, byte) {
		read++
		return versions[Version].entry(b)
	}
	versions[next] = &other
	defer delete(versions, next)
	b, err := Collect(9, func(cursor uint64) (Snapshot, error) {
		s, err := w.c.Snapshot(cursor)
		le.PutUint32(s.Superblock[versionAt:], next)
		seal(s.Superblock)
		return s, err
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := listed(w.table(w.base)); !slices.Equal(listed(b.table), want) || read != len(want) {
		t.Errorf("%d entries were read as version %d has them, %d are in the table%s", read, next,
			len(want), diff(want, listed(b.table)))
	}
}

// FuzzBackup damages backups at will and decodes them; with fix, pages get their right sums again,
// so that the decoder gets past them. raw is a whole file instead, if it is not empty. changes is a
// list of 4 bytes each: where in the file (2), what (1), and how many times (1). One kind of change
// cuts off a page.
func FuzzBackup(f *testing.F) {
	var files [][]byte
	for _, g := range golden {
		files = append(files, encoded(f, backupOf(f, readGolden(f, g.name))))
	}
	f.Add(uint8(0), false, uint16(0), []byte{}, []byte{})
	f.Add(uint8(1), true, uint16(0), []byte{}, []byte{})
	f.Add(uint8(0), true, uint16(1), []byte{12, 0, 0xff, 4}, []byte{})
	f.Add(uint8(1), true, uint16(0), []byte{64, 32, 1, 8}, []byte{})
	f.Add(uint8(0), true, uint16(0), []byte{120, 16, 1, 8, 48, 16, 7, 1}, []byte{})
	f.Add(uint8(0), true, uint16(0), []byte{}, []byte("BLKRMPB4"))
	image := readGolden(f, golden[0].name)
	f.Fuzz(func(t *testing.T, which uint8, fix bool, short uint16, changes, raw []byte) {
		data := bytes.Clone(files[int(which)%len(files)])
		data = data[:len(data)-int(short)%len(data)]
		if len(raw) > 0 {
			data = bytes.Clone(raw)
		}
		for ; len(changes) >= 4; changes = changes[4:] {
			for i := range int(changes[3]) {
				data[(int(le.Uint16(changes))+i)%len(data)] ^= changes[2]
			}
		}
		if fix {
			var sums []byte
			for at := PageSize; at+PageSize <= len(data); at += PageSize {
				seal(data[at : at+PageSize])
				sums = append(sums, data[at+checksumOffset:at+checksumOffset+8]...)
			}
			if len(data) >= PageSize {
				le.PutUint64(data[88:], digestOf(sums))
				seal(data[:PageSize])
			}
		}
		b, err := DecodeBackup(bytes.NewReader(data))
		if err != nil {
			if !errors.Is(err, ErrBackup) && !errors.Is(err, ErrUnfinished) {
				sentinel(t, "decode", err)
			}
			return
		}
		again, err := DecodeBackup(bytes.NewReader(encoded(t, b)))
		if err != nil || !slices.Equal(listed(again.table), listed(b.table)) || again.tip != b.tip {
			t.Fatalf("encoded again: %v", err)
		}
		// It never fits another set. A set that is in order and newer is not restored.
		disks := clones(image)
		r, err := PlanRestore(devices(disks), b)
		if err == nil && b.Superblock.UUID != disks0UUID(t, disks) {
			t.Fatalf("a foreign one is taken: %+v", r)
		}
		if err == nil && len(r.Steps) > 0 && len(r.Risks) == 0 {
			t.Fatalf("a set that is in order is to be overwritten: %+v", r)
		}
		// If nothing else is left, the backup is written or refused.
		for i, d := range disks {
			lose(d, b.Superblock, min(uint8(i), uint8(len(b.Superblock.Devices)-1)))
		}
		if r, err = PlanRestore(devices(disks), b); err == nil && len(r.Steps) > 0 {
			if _, err := r.Run(RunOptions{Now: 1, Session: 1}); err != nil {
				sentinel(t, "restore", err)
			}
		}
	})
}

func disks0UUID(t testing.TB, disks []*memDisk) [16]byte {
	sb, err := Probe(disks[0])
	if err != nil {
		t.Fatal(err)
	}
	return sb.UUID
}

func digestOf(sums []byte) uint64 {
	d := newDigest()
	for ; len(sums) > 0; sums = sums[8:] {
		addSum(d, le.Uint64(sums))
	}
	return d.Sum64()
}
