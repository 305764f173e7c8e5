package health

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// judgement is a verdict, and a part of one of its reasons.
type judgement struct {
	verdict Verdict
	reason  string
}

// The verdict that a person would give on what a drive says of itself, and a word of its reason.
var recorded = map[string]judgement{
	"ata-hgst-hus724020-12-crc":               {Good, "12 errors of its link"},
	"ata-hitachi-hds721050-smart-failed":      {ReplaceNow, "fails (SMART status)"},
	"ata-mb0500-1-uncorrected":                {Watch, "1 error that it could not correct"},
	"ata-micron-5300-end-to-end":              {Watch, "between its cache and its interface"},
	"ata-packed-command-timeout":              {Good, "is well"},
	"ata-samsung-840-108-crc":                 {Watch, "check the cable"},
	"ata-samsung-860-all-logs":                {Good, "is well"},
	"ata-st3500418as-1-reallocated":           {Good, "replaced 1 sector, as many"},
	"ata-st3500418as-304-reallocated":         {Watch, "replaced 304 sectors"},
	"ata-wd2003fyys-3118119-crc":              {Watch, "3,118,119 errors of its link"},
	"ata-wd20efrx":                            {Good, "is well"},
	"ata-wd4000fyyx-387-reallocated":          {Watch, "replaced 387 sectors"},
	"ata-wd4000fyyx":                          {Good, "is well"},
	"nvme-force-mp510-8382-log-entries":       {Good, "is well"},
	"nvme-intel-p4510-75-percent-used":        {Good, "is well"},
	"nvme-samsung-970-7-media-errors":         {Watch, "7 errors that it could not correct"},
	"nvme-samsung-mzwll-critical-warning":     {ReplaceNow, "memory backup has failed"},
	"raid-volume-says-nothing":                {Unknown, "nothing is known"},
	"scsi-hitachi-sas":                        {Good, "is well"},
	"scsi-seagate-st373453-535-failed-writes": {ReplaceNow, "has failed 535 writes"},
	"scsi-seagate-st4000nm0043-56-grown":      {Watch, "replaced 56 sectors"},
}

func TestRecordedDrives(t *testing.T) { judged(t, "testdata", recorded) }

// made are outputs that were made by what the documentation of drives and of smartctl says.
var made = map[string]judgement{
	"behind-megaraid":          {Watch, "16 sectors that do not read"},
	"no-attributes-statistics": {Watch, "replaced 4,096 sectors"},
	"nvme-hot":                 {Watch, "look after its cooling"},
	"nvme-hot-read-only":       {ReplaceNow, "read-only"},
	"nvme-self-test-failed":    {Watch, "extended: completed: failed segments at LBA 1234567"},
	"packed-raw-values":        {Good, "replaced 3 sectors, as many"},
	"qemu-ata-exit-4":          {Good, "is well"},
	"qemu-nvme":                {Good, "is well"},
	"sas-self-test-failed":     {Watch, "background long: failed in segment"},
	"sas-ssd-101-percent-used": {Watch, "101 % of the endurance"},
	"ssd-104-percent-used":     {Watch, "104 % of the endurance"},
}

func TestMadeDrives(t *testing.T) { judged(t, "testdata/made", made) }

// judged compares the verdict on each output in a directory with what a person would say.
func judged(t *testing.T, dir string, wanted map[string]judgement) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) != len(wanted) {
		t.Fatalf("%d files and %d verdicts, %v", len(files), len(wanted), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			d := Decode("/dev/sdx", text)
			r := Judge(&Seen{Now: time.Now(), Unknown: true}, []Drive{d})
			want := wanted[name]
			if r.Verdict != want.verdict {
				t.Errorf("verdict %s, want %s", r.Verdict, want.verdict)
			}
			all := strings.Join(r.Reasons, "\n")
			if !strings.Contains(all, want.reason) {
				t.Errorf("no reason has %q:\n%s", want.reason, all)
			}
			if d.Model == "" || d.says() && d.Note != "" {
				t.Errorf("model %q, note %q", d.Model, d.Note)
			}
		})
	}
}

func TestWhatSmartctlSays(t *testing.T) {
	for name, c := range map[string]struct{ output, note string }{
		"nothing": {"", "gives no JSON"},
		"old":     {"smartctl 6.6 2017-11-05", "gives no JSON"},
		"a message": {`{"smartctl":{"exit_status":1,"messages":[{"severity":"error",` +
			`"string":"/dev/sdb: Unknown USB bridge [0x1234:0x5678]"}]}}`, "Unknown USB bridge"},
		"a status":  {`{"smartctl":{"exit_status":2}}`, "exit status 2"},
		"no health": {`{"smartctl":{"exit_status":0}}`, "says nothing"},
		"odd form":  {`{"smart_status":{"passed":"yes"}}`, "unknown form"},
	} {
		if d := Decode("/dev/sdb", []byte(c.output)); !strings.Contains(d.Note, c.note) {
			t.Errorf("%s: %q", name, d.Note)
		}
	}
}

var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// seen is a set of 1 TiB that is a year old, with 16 GiB of spare units.
func seen(bad ...Bad) *Seen {
	return &Seen{Blocks: 1 << 28, BlockSize: 4096, Spare: 4 << 20, SpareFree: 4 << 20, Bad: bad,
		Now: now, Since: now.AddDate(-1, 0, 0)}
}

func ago(d time.Duration) time.Time { return now.Add(-d) }

func TestWhatTheServerSaw(t *testing.T) {
	well := Decode("/dev/sda", []byte(`{"smart_status":{"passed":true},"ata_smart_attributes":`+
		`{"table":[{"id":5,"raw":{"value":0}},{"id":199,"raw":{"value":7}}]}}`))
	old := Bad{Block: 1000, Count: 1, Spares: 1, At: ago(200 * day)}
	many := func(n int, at time.Time) (all []Bad) {
		for i := range n {
			all = append(all, Bad{Block: uint64(i) * 1000003, Count: 1, Spares: 1, At: at})
		}
		return all
	}
	with := func(s *Seen, f func(*Seen)) *Seen { f(s); return s }
	for name, c := range map[string]struct {
		seen    *Seen
		drives  []Drive
		verdict Verdict
		reason  string
	}{
		"all is well":        {seen(), []Drive{well}, Good, "is well"},
		"nothing is known":   {seen(), nil, Unknown, "no bad block"},
		"an old bad block":   {seen(old), nil, Good, "no new bad block in 30 days"},
		"the drive is blind": {seen(old), []Drive{well}, Watch, "do not rely"},
		"new bad blocks": {seen(old, Bad{Block: 9000, Count: 8, Spares: 1, At: ago(5 * day)},
			Bad{Block: 99000, Count: 8, Spares: 1, At: ago(3 * day)}), nil, Watch,
			"the disk got worse 2 times in 30 days"},
		"a burst": {seen(many(150, ago(time.Hour))...), nil, ReplaceNow, "within a day"},
		"pending": {with(seen(), func(s *Seen) { s.Pending = 3 }), []Drive{well}, Watch,
			"3 blocks do not read"},
		"lost": {with(seen(), func(s *Seen) { s.Lost = 1 }), []Drive{well}, Watch,
			"1 block has lost"},
		"the cable": {with(seen(), func(s *Seen) { s.Transport = 4 }), []Drive{well}, Watch,
			"the cable, not the disk"},
		"a controller": {with(seen(), func(s *Seen) { s.Transport = 4 }), nil, Watch,
			"check cable, power and controller"},
		"little spare": {with(seen(old), func(s *Seen) { s.SpareFree = s.Spare / 50 }), nil,
			ReplaceNow, "2 % of the spare region"},
		"less spare": {with(seen(old), func(s *Seen) { s.SpareFree = s.Spare / 5 }), nil, Watch,
			"20 % of the spare region"},
		"the breaker": {with(seen(), func(s *Seen) { s.Tripped, s.Reason = true, "media" }), nil,
			ReplaceNow, "remapping is stopped: media"},
		"the breaker, for a way that fails": {with(seen(), func(s *Seen) {
			s.Tripped, s.TripKind, s.Reason, s.Transport = true, "path", "ETIMEDOUT", 9
		}), nil, Watch, "stopped: ETIMEDOUT; check cable, power and controller first"},
		"the breaker, for a disk that is gone": {with(seen(old), func(s *Seen) {
			s.Tripped, s.TripKind, s.Reason = true, "missing", "ENODEV"
		}), nil, Watch, "stopped: ENODEV; check cable"},
		"the breaker, for the medium": {with(seen(), func(s *Seen) {
			s.Tripped, s.TripKind, s.Reason, s.Transport = true, "media", "EIO", 9
		}), nil, ReplaceNow, "remapping is stopped: EIO"},
		"the breaker, of an old server": {with(seen(), func(s *Seen) {
			s.Tripped, s.Reason, s.Transport = true, "EIO", 9
		}), nil, Watch, "stopped: EIO; check cable"},
		"the breaker, of an old server with bad blocks": {with(seen(old), func(s *Seen) {
			s.Tripped, s.Reason, s.Transport = true, "EIO", 9
		}), nil, ReplaceNow, "remapping is stopped: EIO"},
		"too fast": {with(seen(append(append(many(30, ago(3*day)), many(30, ago(2*day))...),
			many(30, ago(day+time.Hour))...)...), func(s *Seen) { s.SpareFree = 15 }), nil,
			ReplaceNow, "the spare region lasts about 5 days"},
	} {
		t.Run(name, func(t *testing.T) {
			r := Judge(c.seen, c.drives)
			all := strings.Join(r.Reasons, "\n")
			if r.Verdict != c.verdict || !strings.Contains(all, c.reason) {
				t.Errorf("%s, want %s with %q:\n%s", r.Verdict, c.verdict, c.reason, all)
			}
		})
	}
}

func TestPoisson95(t *testing.T) {
	// Exact values: Garwood's table.
	for n, want := range map[int][2]float64{0: {0, 3.689}, 1: {0.0253, 5.572}, 5: {1.623, 11.668},
		20: {12.217, 30.888}, 100: {81.364, 121.627}} {
		low, high := poisson95(n)
		if !near(low, want[0], 0.03) || !near(high, want[1], 0.03) {
			t.Errorf("%d: %v to %v, want %v", n, low, high, want)
		}
	}
}

func near(a, b, by float64) bool { return a >= b-by*max(b, 1) && a <= b+by*max(b, 1) }
