package metadata

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// sameBackup reports whether a dump says what a backup of the same moment does.
func sameBackup(dump, backup *Backup) bool {
	return reflect.DeepEqual(dump.Superblock, backup.Superblock) && dump.tip == backup.tip &&
		dump.Position == backup.Position && dump.Table == backup.Table &&
		slices.Equal(listed(dump.table), listed(backup.table))
}

// readDump decodes a dump in the way that every verb does.
func readDump(t testing.TB, dump []byte) *Backup {
	t.Helper()
	b, err := ReadBackup(bytes.NewReader(dump))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestDumpIsABackup: a dump of golden images and of random tables is decoded to the same as a
// backup, and restores the same table. The restore is certain if the logs are there. If nothing is
// there, a person must accept its risks.
func TestDumpIsABackup(t *testing.T) {
	type set struct {
		name  string
		disks []*memDisk
	}
	var sets []set
	for _, g := range golden {
		sets = append(sets, set{g.name, readGolden(t, g.name)})
	}
	for i, tc := range worlds {
		for seed := range seeds(2) {
			w := history(t, tc.p, 900+10*uint64(i)+seed, false)
			sets = append(sets, set{fmt.Sprint(tc.name, " seed ", seed), w.disks})
		}
	}
	for _, s := range sets {
		t.Run(s.name, func(t *testing.T) {
			want, err := tableOf(devices(s.disks))
			if err != nil {
				t.Fatal(err)
			}
			dump := dumped(t, s.disks)
			b := readDump(t, dump)
			if backup := backupOf(t, s.disks); !sameBackup(b, backup) {
				t.Fatalf("the dump says %+v, the backup %+v%s", b, backup, diff(want,
					listed(b.table)))
			}
			// In another form: as jq prints it, and byte by byte.
			var compact bytes.Buffer
			if err := json.Compact(&compact, dump); err != nil {
				t.Fatal(err)
			}
			again, err := DecodeDump(iotest.OneByteReader(&compact))
			if err != nil || !sameBackup(again, b) {
				t.Fatalf("compact: %v", err)
			}
			if plan, err := PlanRestore(devices(s.disks), b); err != nil || len(plan.Steps) > 0 {
				t.Fatalf("nothing is lost: %v, %q", err, plan.Steps)
			}
			img, err := Load(devices(s.disks))
			if err != nil {
				t.Fatal(err)
			}
			for _, all := range []bool{false, true} {
				disks := clones(s.disks)
				loseTable(img, disks, all)
				if _, err := Load(devices(disks)); err == nil {
					t.Fatal("it still loads")
				}
				restored(t, fmt.Sprint("all: ", all), disks, b, want, !all)
			}
		})
	}
}

// loseTable loses every checkpoint of a set, or, with all, everything that is written on it.
func loseTable(img *Image, disks []*memDisk, all bool) {
	for i := range img.mirrors {
		m, d := &img.mirrors[i], disks[img.mirrors[i].device]
		for slot := range 2 {
			delete(d.pages, m.headerOffset(slot)/PageSize)
		}
		for s := 0; all && s < len(m.slots); s++ {
			delete(d.pages, m.logOffset(s)/PageSize)
		}
	}
	for i := 0; all && i < len(disks); i++ {
		lose(disks[i], img.sb, uint8(i))
	}
}

// without removes a member of the dump; with indent 1 each has a line of its own, except for the
// last.
func without(dump []byte, name string) []byte {
	return regexp.MustCompile(`\n "`+name+`": "?[^\n]*,?\n`).ReplaceAll(dump, []byte("\n"))
}

// TestDumpRefused: whatever is wrong with a dump, the error is one line, and ErrBackup.
func TestDumpRefused(t *testing.T) {
	w := history(t, pairParams(512), 950, false)
	dump := dumped(t, w.disks)
	alone, err := Dump(devices(w.disks[:1]))
	if err != nil {
		t.Fatal(err)
	}
	damaged := clones(w.disks)
	noCheckpoints(w, damaged)
	broken, err := Dump(devices(damaged))
	if err != nil || broken.Error == "" {
		t.Fatal(err, broken.Error)
	}
	unfinished := clones(w.disks)
	rewrite(unfinished[0], func(sb *Superblock) {
		sb.Incompat, sb.Transition = sb.Incompat|incompatTransition, TransitionReverting
		sb.Generation++
	})
	printed := func(d *DumpResult) []byte {
		var b bytes.Buffer
		if err := d.WriteJSON(&b, " "); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	replaced := func(pattern, by string) []byte {
		re := regexp.MustCompile(pattern)
		at := re.FindIndex(dump)
		if at == nil {
			t.Fatalf("the dump has no %q", pattern)
		}
		return slices.Concat(dump[:at[0]], re.ReplaceAll(dump[at[0]:at[1]], []byte(by)),
			dump[at[1]:])
	}
	table := `(?s)("table": \[.*?)`
	entry := `{"unit": 0, "spare": 0, "count": 1, "time": 0, "mask": 1, "state": "%s", ` +
		`"cause": "none"}, `
	for name, c := range map[string]struct {
		dump []byte
		text string
		want error
	}{
		"empty":            {[]byte("{}"), "without a table", ErrBackup},
		"a list":           {[]byte("[]"), "ends before its first page", ErrBackup},
		"another document": {[]byte(`{"a": {"b": [1, null]}}`), "no dump", ErrBackup},
		"something behind": {append(bytes.Clone(dump), "{}"...), "behind its end", ErrBackup},
		"a changed count":  {replaced(table+`"count": (\d+)`, `$1"count": 1$2`), "", ErrBackup},
		"a changed time": {replaced(table+`"time": (\d+)`, `$1"time": 1$2`), "changed",
			ErrBackup},
		"a changed name": {replaced(`"name": "w"`, `"name": "v"`), "", ErrBackup},
		"a changed position": {replaced(`(?s)(\n "position".*?"sequence": )`, `${1}1`), "changed",
			ErrBackup},
		"a changed checksum": {replaced(`"checksum": "`, `"checksum": "z`), "hexadecimal",
			ErrBackup},
		"another checksum": {replaced(`"checksum": "\w{4}`, `"checksum": "0123`), "changed",
			ErrBackup},
		"a changed counts": {replaced(`(?s)("counts".*?"mapped": )`, `${1}1`), "counts",
			ErrBackup},
		"one more entry": {replaced(`"table": \[`, `"table": [`+fmt.Sprintf(entry,
			"pending")), "changed", ErrBackup},
		"an impossible entry": {replaced(`"table": \[`, `"table": [`+fmt.Sprintf(entry,
			"retired")), "retired", ErrBackup},
		"an unknown state": {replaced(`"table": \[`, `"table": [`+fmt.Sprintf(entry, "odd")),
			"odd", ErrBackup},
		"an odd member": {replaced(`"table": \[`, `"table": [{"odd": 1},`), "odd",
			ErrBackup},
		"an entry of null": {replaced(`"table": \[`, `"table": [null, `), "state(0)",
			ErrBackup},
		"a table of null": {replaced(table+"\n \\]", `"table": null`), "where [ belongs",
			ErrBackup},
		"a negative number": {replaced(`("slot_bytes": )`, `$1-`), "", ErrBackup},
		"a wrong kind":      {replaced(`"kind": "mirror"`, `"kind": "odd"`), "odd", ErrBackup},
		"a fraction":        {replaced(table+`("count": \d+)`, `$1$2.5`), "", ErrBackup},
		"no JSON":           {replaced(`"table"`, `table`), "invalid character", ErrBackup},
		"an older version":  {withoutSum(dump), "older version", ErrBackup},
		"no sum":            {without(dump, "checksum"), "older version", ErrBackup},
		"two tables":        {replaced(`"counts"`, `"table": [], "counts"`), "twice", ErrBackup},
		"the table first": {replaced(`{`, `{"table": [],`), "before its superblocks",
			ErrBackup},
		"a missing device":    {printed(alone), "was missing", ErrBackup},
		"a damaged set":       {printed(broken), "did not load", ErrBackup},
		"a set in transition": {dumped(t, unfinished), "release", ErrUnfinished},
		"no superblocks": {replaced(`(?s)"superblocks": \[.*?"mirrors"`,
			`"superblocks": [], "mirrors"`), "no superblock of the backing", ErrBackup},
		"unknown features": {bytes.ReplaceAll(dump, []byte(`"incompat": `),
			[]byte(`"incompat": 8`)), "incompat", ErrUnsupported},
		"a superblock's rules": {bytes.ReplaceAll(dump, []byte(`"tail_start": `),
			[]byte(`"tail_start": 1`)), "", ErrBackup},
		"contradictions": {bytes.ReplaceAll(dump, []byte(`"device_index": 0,`),
			[]byte(`"device_index": 0, "strays": 7,`)), "contradicts itself", ErrBackup},
	} {
		b, err := ReadBackup(bytes.NewReader(c.dump))
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) || b != nil ||
			strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The dump is cut off anywhere, except at the end of its last line.
	for at := 1; at < len(dump)-2; at += 1 + w.r.IntN(len(dump)/30) {
		if _, err := ReadBackup(bytes.NewReader(dump[:at])); !errors.Is(err, ErrBackup) ||
			!strings.Contains(err.Error(), "cut off") {
			t.Fatalf("cut at %d of %d: %v", at, len(dump), err)
		}
	}
	if _, err := DecodeDump(io.MultiReader(bytes.NewReader(dump[:999]),
		iotest.ErrReader(errMedium))); !errors.Is(err, errMedium) || errors.Is(err, ErrBackup) {
		t.Error(err)
	}
	// The session is what readers of JSON round.
	if _, err := ReadBackup(bytes.NewReader(regexp.MustCompile(`"session": \d+`).ReplaceAll(dump,
		[]byte(`"session": 7`)))); err != nil {
		t.Error(err)
	}
}

// TestDumpContradicts: a table that makes no sense is refused although its sum is right.
func TestDumpContradicts(t *testing.T) {
	w := history(t, smallParams(512, 0), 955, false)
	d, err := Dump(devices(w.disks))
	if err != nil {
		t.Fatal(err)
	}
	twice := NewTable(w.plan)
	for _, unit := range []uint64{5, 9} {
		if err := twice.Apply(Entry{Unit: unit, Spare: 3, Count: 1, Mask: 1, State: StateMapped,
			Cause: CauseWrite}); err != nil {
			t.Fatal(err)
		}
	}
	for name, f := range map[string]func(d *DumpResult){
		"one spare unit of two units": func(d *DumpResult) {
			d.table, d.Counts = twice, twice.Counts()
		},
		"counts of another table": func(d *DumpResult) { d.table = NewTable(w.plan) },
		"a position without an end": func(d *DumpResult) {
			tip := link{Position: Position{1 << 61, 1}}
			d.Position, d.backup = tip.Position, &Backup{Superblock: d.backup.Superblock, tip: tip}
		},
	} {
		bad := *d
		f(&bad)
		var b bytes.Buffer
		if err := bad.WriteJSON(&b, " "); err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeDump(&b); !errors.Is(err, ErrBackup) ||
			strings.Contains(err.Error(), "changed") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDumpOfAnotherTime: the rules of a backup are those of a dump.
func TestDumpOfAnotherTime(t *testing.T) {
	w := history(t, pairParams(512), 960, false)
	old := clones(w.disks)
	before := readDump(t, dumped(t, w.disks))
	w.power()
	w.settle()
	w.commit()
	w.settle()
	now := readDump(t, dumped(t, w.disks))
	other := readDump(t, dumped(t, history(t, pairParams(512), 961, false).disks))
	for _, d := range w.disks {
		d.readOnly = true
	}
	if _, err := PlanRestore(devices(w.disks), before); !errors.Is(err, ErrBackupStale) {
		t.Error("an old one:", err)
	}
	if _, err := PlanRestore(devices(w.disks), other); !errors.Is(err, ErrForeign) {
		t.Error("another set's:", err)
	}
	if plan, err := PlanRestore(devices(old), now); err != nil || len(plan.Risks) != 1 {
		t.Errorf("a disk of an earlier time: %v, %+v", err, plan)
	}
}

// endless returns its beginning once, and then repeats the rest without end.
type endless struct {
	begin string
	again string
	at    int
}

func (e *endless) Read(b []byte) (int, error) {
	if e.begin != "" {
		n := copy(b, e.begin)
		e.begin = e.begin[n:]
		return n, nil
	}
	for i := range b {
		b[i] = e.again[e.at%len(e.again)]
		e.at++
	}
	return len(b), nil
}

// TestHostileDumps: documents without an end are refused before they take memory or time.
func TestHostileDumps(t *testing.T) {
	w := history(t, smallParams(512, 0), 970, false)
	dump := string(dumped(t, w.disks))
	front := dump[:strings.Index(dump, `"table": [`)+len(`"table": [`)]
	everything := fmt.Sprintf(
		`{"unit": 0, "count": %d, "mask": 1, "state": "lost", "cause": "none"},`,
		w.plan.Units()-1)
	little := `{"unit": 1, "count": 1, "mask": 1, "state": "lost", "cause": "none"},`
	for name, e := range map[string]*endless{
		"a string":          {begin: `{"superblocks": "`, again: "a"},
		"a name":            {begin: `{"`, again: "a"},
		"a number":          {begin: `{"mirrors": `, again: "1"},
		"a superblock":      {begin: `{"superblocks": [{"superblock": {"regions": [`, again: `{},`},
		"superblocks":       {begin: `{"superblocks": [`, again: `{},`},
		"levels":            {begin: `{"mirrors": `, again: "["},
		"levels of objects": {begin: `{"mirrors": `, again: `{"a":`},
		"blanks":            {begin: `{"mirrors": `, again: " "},
		"entries":           {begin: front, again: little},
		"large entries":     {begin: front, again: everything},
		"an entry":          {begin: front + `{"unit": `, again: "1"},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := DecodeDump(e)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrBackup) {
			t.Errorf("%s: %v", name, err)
		}
		if n := after.Sys - before.Sys; n > 64<<20 && !raceDetector {
			t.Errorf("%s: %d bytes of memory", name, n)
		}
	}
}

// live is the most memory in use while something is read through it.
type live struct {
	io.Reader
	read, next int64
	most       uint64
}

func (l *live) Read(b []byte) (int, error) {
	n, err := l.Reader.Read(b)
	if l.read += int64(n); l.read >= l.next {
		l.next += 16 << 20
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		l.most = max(l.most, m.HeapAlloc)
	}
	return n, err
}

// TestMillionEntries: a dump of a million entries goes through a pipe. Neither the writer nor the
// reader has more of it in memory than the table.
func TestMillionEntries(t *testing.T) {
	n := uint64(1_000_000)
	if testing.Short() || raceDetector {
		n = 200_000
	}
	plan, err := Plan(PlanParams{BackingSize: 1 << 40, BlockSize: 4096, SpareBytes: 16 << 30,
		Name: "million"})
	if err != nil {
		t.Fatal(err)
	}
	tab := NewTable(plan)
	for i := range n {
		if err := tab.Apply(Entry{Unit: 2 * i, Spare: uint32(i), Count: 1, Mask: 1,
			State: StateMapped, Cause: CauseWrite, Time: uint32(i)}); err != nil {
			t.Fatal(err)
		}
	}
	sb := plan.sb.clone()
	tip := link{Position{2, 3}, 4}
	b, err := newBackup(sb, tip, tab, plan)
	if err != nil {
		t.Fatal(err)
	}
	d := &DumpResult{Mirrors: []MirrorDump{}, Position: tip.Position, Counts: b.Table, table: tab,
		backup: b}
	for i := range sb.Devices {
		own := sb.clone()
		own.DeviceIndex = uint8(i)
		d.Superblocks = append(d.Superblocks, SuperblockCopy{Device: i, Superblock: own})
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	r, w := io.Pipe()
	go func() { w.CloseWithError(d.WriteJSON(w, "  ")) }()
	l := &live{Reader: r}
	got, err := DecodeDump(l)
	if err != nil {
		t.Fatal(err)
	}
	if !sameBackup(got, b) {
		t.Fatal("it is another table")
	}
	grown := int64(l.most) - int64(m.HeapAlloc)
	t.Logf("%d entries: a document of %d MiB, and at most %d MiB of memory", n, l.read>>20,
		grown>>20)
	if grown > l.read*2/3 {
		t.Errorf("%d bytes of memory for a document of %d", grown, l.read)
	}
}

// FuzzDump decodes dumps that a fuzzer has changed. It takes the golden dump with the number which
// and replaces some bytes: changes says where (2 bytes) and by what (1). If raw is not empty, it is
// the document instead.
func FuzzDump(f *testing.F) {
	var dumps [][]byte
	for _, g := range golden {
		var b bytes.Buffer
		d, err := Dump(devices(readGolden(f, g.name)))
		if err == nil {
			err = d.WriteJSON(&b, "")
		}
		if err != nil {
			f.Fatal(err)
		}
		dumps = append(dumps, b.Bytes())
		old, err := os.ReadFile(filepath.Join("testdata", g.name+".json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(0), uint16(0), []byte{}, old)
	}
	f.Add(uint8(0), uint16(0), []byte{}, []byte{})
	f.Add(uint8(1), uint16(9), []byte{12, 0, '['}, []byte{})
	f.Add(uint8(2), uint16(0), []byte{12, 8, '1', 13, 8, '1'}, []byte{})
	f.Add(uint8(0), uint16(0), []byte{},
		[]byte(`{"superblocks": [{}], "position": {}, "table": [{}]}`))
	f.Add(uint8(0), uint16(0), []byte{}, []byte(`{"a": [[[1e999, "\ud800"]]], "table": null}`))
	image := readGolden(f, golden[0].name)
	f.Fuzz(func(t *testing.T, which uint8, short uint16, changes, raw []byte) {
		data := bytes.Clone(dumps[int(which)%len(dumps)])
		data = data[:len(data)-int(short)%len(data)]
		if len(raw) > 0 {
			data = raw
		}
		for ; len(raw) == 0 && len(changes) >= 3; changes = changes[3:] {
			data[int(le.Uint16(changes))%len(data)] = changes[2]
		}
		b, err := DecodeDump(bytes.NewReader(data))
		if err != nil {
			if !errors.Is(err, ErrBackup) && !errors.Is(err, ErrUnfinished) &&
				!errors.Is(err, ErrUnsupported) {
				t.Fatalf("not a sentinel: %v", err)
			}
			return
		}
		again, err := DecodeBackup(bytes.NewReader(encoded(t, b)))
		if err != nil || !sameBackup(again, b) {
			t.Fatalf("as a backup: %v", err)
		}
		disks := clones(image)
		r, err := PlanRestore(devices(disks), b)
		if err == nil && b.Superblock.UUID != disks0UUID(t, disks) {
			t.Fatalf("a foreign one is accepted: %+v", r)
		}
		if err == nil && len(r.Steps) > 0 && len(r.Risks) == 0 {
			t.Fatalf("a set that is in order is to be overwritten: %+v", r)
		}
	})
}
