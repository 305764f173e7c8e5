package drive

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ublkremap/internal/control"
	"ublkremap/internal/sysfs"
)

// fake is a machine: a tree like sysfs, and a program that answers as smartctl does for drives
// whose state is in files.
type fake struct {
	*Host
	t      *testing.T
	drives string
	live   map[string]bool // sets that are in use
}

// smartctl reads and writes the file of a drive: two times, or a word for what the drive does. It
// prints the parts of smartctl's output that matter.
const smartctl = `#!/bin/sh
# --json -l scterc[,READ,WRITE] /dev/DISK
file=DIR/${4#/dev/}
echo "$3 $4" >>DIR/calls
answer() { echo "{\"smartctl\": {\"exit_status\": $1}, \"device\": {\"name\": \"x\"}$2}"; exit $1; }
time() {
case $1 in
0) echo '{"enabled": false}';;
*) echo "{\"enabled\": true, \"deciseconds\": $1}";;
esac
}
read first second <"$file" || answer 2
case $3,$first in
*,none) case $3 in scterc) answer 0;; *) answer 4;; esac;;
*,hang) exec sleep 1000;;
*,usage) echo 'UNRECOGNIZED OPTION: json'; exit 1;;
scterc,*,*,reject) answer 4;;
esac
case $3 in
scterc) ;;
scterc,*) set -- $(echo "$3" | tr , ' ')
  case $first in lie) ;; reject) answer 4;; *) first=$2 second=$3; echo "$2 $3" >"$file";; esac;;
esac
case $first in lie|reject) first=0 second=0;; esac
answer 0 ", \"ata_sct_erc\": {\"read\": $(time $first), \"write\": $(time $second)}"
`

func newFake(t *testing.T) *fake {
	f := &fake{t: t, drives: t.TempDir(), live: map[string]bool{}}
	f.Host = &Host{sys: t.TempDir(), run: t.TempDir(), wait: time.Minute,
		smart: filepath.Join(f.drives, "smartctl"),
		uses:  func(name string) bool { return f.live[name] },
		number: func(path string) string {
			b, _ := sysfs.Text(filepath.Join(f.sys, "block", filepath.Base(path)), "dev")
			return b
		},
	}
	f.put(f.smart, strings.ReplaceAll(smartctl, "DIR", f.drives))
	if err := os.Chmod(f.smart, 0o700); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fake) put(path, text string) {
	f.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700),
		os.WriteFile(path, []byte(text+"\n"), 0o600)); err != nil {
		f.t.Fatal(err)
	}
}

// device makes a block device of this name, a SCSI disk if host is not 0.
func (f *fake) device(name string, minor, host int, slaves ...string) {
	f.t.Helper()
	dir := filepath.Join(f.sys, "block", name)
	f.put(filepath.Join(dir, "dev"), fmt.Sprintf("8:%d", minor))
	f.put(filepath.Join(dir, "diskseq"), fmt.Sprint(100+minor))
	f.link(dir, filepath.Join(f.sys, "dev/block", fmt.Sprintf("8:%d", minor)))
	for _, s := range slaves {
		f.link(filepath.Join(f.sys, "block", s), filepath.Join(dir, "slaves", filepath.Base(s)))
	}
	if host == 0 {
		return
	}
	device := filepath.Join(f.sys, fmt.Sprintf("devices/ata%d/host%d/target/%d:0:0:0", host, host,
		host))
	f.put(filepath.Join(device, "timeout"), "30")
	f.link(device, filepath.Join(dir, "device"))
	f.put(filepath.Join(f.sys, fmt.Sprintf("class/scsi_host/host%d/eh_deadline", host)), "off")
}

func (f *fake) link(to, from string) {
	f.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(from), 0o700),
		os.Symlink(to, from)); err != nil {
		f.t.Fatal(err)
	}
}

// partition makes a partition of a disk.
func (f *fake) partition(disk, name string, minor int) {
	f.t.Helper()
	dir := filepath.Join(f.sys, "block", disk, name)
	f.put(filepath.Join(dir, "partition"), "1")
	f.link(dir, filepath.Join(f.sys, "dev/block", fmt.Sprintf("8:%d", minor)))
	// The fake machine looks up the number of a path here.
	f.put(filepath.Join(f.sys, "block", name, "dev"), fmt.Sprintf("8:%d", minor))
}

func (f *fake) drive(name, text string) { f.put(filepath.Join(f.drives, name), text) }

func (f *fake) want(name, text string) {
	f.t.Helper()
	f.wantFile("drive "+name, filepath.Join(f.drives, name), text)
}

func (f *fake) wantTimer(disk, text string) {
	f.t.Helper()
	f.wantFile("timeout of "+disk, filepath.Join(f.sys, "block", disk, "device/timeout"), text)
}

func (f *fake) wantFile(what, path, text string) {
	f.t.Helper()
	if got, err := sysfs.Text(filepath.Dir(path), filepath.Base(path)); err != nil || got != text {
		f.t.Errorf("%s: %q (%v), want %q", what, got, err, text)
	}
}

// calls returns how often smartctl was called since the last time.
func (f *fake) calls() int {
	b, _ := os.ReadFile(filepath.Join(f.drives, "calls"))
	_ = os.Remove(filepath.Join(f.drives, "calls"))
	return strings.Count(string(b), "\n")
}

// start does what the start of a set does.
func (f *fake) start(name string, paths ...string) []control.Drive {
	f.live[name] = true
	return f.Set(f.t.Context(), name, paths, 7*time.Second)
}

func (f *fake) stop(name string) {
	f.t.Helper()
	f.live[name] = false
	if err := f.Release(f.t.Context(), name); err != nil {
		f.t.Errorf("stop %s: %v", name, err)
	}
}

func (f *fake) wantNoState() {
	f.t.Helper()
	if left := f.entries(); len(left) > 0 {
		f.t.Errorf("left behind: %v", left)
	}
}

// TestSetAndRelease: each kind of drive gets the setting that it supports, and gets its old
// settings back.
func TestSetAndRelease(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		drive, set, timer, says string
	}{
		{"0 0", "70 70", "30", "/dev/sda gives up after 7s (had no limit before)"},
		{"150 150", "70 70", "30", "/dev/sda gives up after 7s (was 15s)"},
		{"70 70", "70 70", "30", "/dev/sda gives up after 7s"},
		{"20 30", "20 30", "30", "/dev/sda gives up after 3s"},
		{"0 30", "70 30", "30", "/dev/sda gives up after 7s (had no limit before)"},
		{"none", "none", "180", "/dev/sda: no limit is set: the drive has no error recovery " +
			"control (SCT ERC); the kernel waits 3m0s for it (was 30s)"},
		{"lie", "lie", "180", "/dev/sda: no limit is set: the drive does not take the limit; " +
			"the kernel waits 3m0s for it (was 30s)"},
		{"reject", "reject", "180", "/dev/sda: no limit is set: smartctl: exit status 4; " +
			"the kernel waits 3m0s for it (was 30s)"},
		{"usage", "usage", "180", "/dev/sda: no limit is set: smartctl gives no JSON; it is " +
			"older than 7.0, or another program; the kernel waits 3m0s for it (was 30s)"},
	} {
		t.Run(c.drive, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			f.device("sda", 1, 1)
			f.drive("sda", c.drive)
			got := f.start("a", "/dev/sda")
			if len(got) != 1 || Says(got[0]) != c.says {
				t.Errorf("%+v", got)
				for _, d := range got {
					t.Errorf("says %q, want %q", Says(d), c.says)
				}
			}
			f.want("sda", c.set)
			f.wantTimer("sda", c.timer)
			if again := f.Report("a", []string{"/dev/sda"}); len(again) != 1 ||
				Says(again[0]) != c.says {
				t.Errorf("reported as %+v", again)
			}
			f.stop("a")
			f.want("sda", c.drive)
			f.wantTimer("sda", "30")
			f.wantNoState()
		})
	}
}

// TestNoSmartctl: without smartctl the kernel's limit is raised.
func TestNoSmartctl(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.smart = "smartctl-that-is-nowhere"
	f.device("sda", 1, 1)
	eh := filepath.Join(f.sys, "class/scsi_host/host1/eh_deadline")
	f.put(eh, "20")
	got := f.start("a", "/dev/sda")
	if len(got) != 1 || got[0].Note != errNoSmartctl.Error() || got[0].KernelS != 180 {
		t.Errorf("%+v", got)
	}
	f.wantTimer("sda", "180")
	f.wantFile("eh_deadline", eh, "180")
	// Somebody else sets it meanwhile. That value stays.
	f.put(filepath.Join(f.sys, "block/sda/device/timeout"), "60")
	f.stop("a")
	f.wantTimer("sda", "60")
	f.wantFile("eh_deadline", eh, "20")
	f.wantNoState()
}

// TestHangs: a program that does not end is not waited for.
func TestHangs(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.wait = 200 * time.Millisecond
	f.device("sda", 1, 1)
	f.drive("sda", "hang")
	got := f.start("a", "/dev/sda")
	if len(got) != 1 || !strings.Contains(got[0].Note, "has not answered for 200ms") {
		t.Errorf("%+v", got)
	}
	f.wantTimer("sda", "180")
}

// TestOthers: disks that have no such limit, files, and disks below other devices.
func TestOthers(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.device("nvme0n1", 1, 0)
	f.device("vda", 2, 0)
	f.device("sda", 3, 3)
	f.device("sdb", 4, 4)
	f.partition("sda", "sda1", 5)
	f.partition("sdb", "sdb1", 6)
	f.device("md0", 7, 0, "sda/sda1", "sdb/sdb1")
	f.device("dm-0", 8, 0, "md0")
	f.device("loop0", 9, 0)
	f.put(filepath.Join(f.sys, "block/loop0/loop/backing_file"), "/x")
	f.device("dm-1", 10, 0, "dm-1") // without end
	f.drive("sda", "0 0")
	f.drive("sdb", "none")
	var names []string
	for _, d := range f.disksBelow([]string{"/dev/dm-0", "/dev/sda1", "/dev/nvme0n1", "/dev/loop0",
		"/dev/dm-1", "/tmp/file", "/dev/vda"}) {
		names = append(names, d.name)
	}
	if want := []string{"nvme0n1", "sda", "sdb", "vda"}; !slices.Equal(names, want) {
		t.Errorf("disks %v, want %v", names, want)
	}
	var says []string
	for _, d := range f.start("a", "/dev/dm-0", "/dev/nvme0n1", "/dev/vda") {
		says = append(says, Says(d))
	}
	if want := []string{"/dev/nvme0n1: NVMe has no such limit",
		"/dev/sda gives up after 7s (had no limit before)",
		"/dev/sdb: no limit is set: the drive has no error recovery control (SCT ERC); the " +
			"kernel waits 3m0s for it (was 30s)",
		"/dev/vda: a virtual disk has no such limit"}; !slices.Equal(says, want) {
		t.Errorf("%q\nwant %q", says, want)
	}
	f.stop("a")
	f.want("sda", "0 0")
	f.wantTimer("sdb", "30")
	f.wantNoState()
}

// TestShared: with several sets on one disk, the last one restores the settings, even if the others
// have died.
func TestShared(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.device("sda", 1, 1)
	f.partition("sda", "sda1", 2)
	f.partition("sda", "sda2", 3)
	f.drive("sda", "0 0")
	f.start("a", "/dev/sda1")
	f.start("b", "/dev/sda2")
	f.stop("a")
	f.want("sda", "70 70")
	// The server of b is killed and started again. The settings from before are remembered.
	f.start("b", "/dev/sda2")
	f.want("sda", "70 70")
	f.stop("b")
	f.want("sda", "0 0")
	f.wantNoState()

	f.start("a", "/dev/sda1")
	f.start("b", "/dev/sda2")
	f.live["a"] = false // its server died
	f.stop("b")
	f.want("sda", "0 0")
	f.wantNoState()

	f.start("a", "/dev/sda1")
	f.live["a"] = false
	f.start("b", "/dev/sda2") // finds the limit that a set, and the one before
	f.stop("b")
	f.want("sda", "0 0")
	f.wantNoState()
}

// TestComesBack: a drive that was without power has forgotten its limit. A different drive with the
// same name is left alone.
func TestComesBack(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.device("sda", 1, 1)
	f.drive("sda", "0 0")
	f.start("a", "/dev/sda")
	f.drive("sda", "0 0")
	if got := f.Again(t.Context(), "a", []string{"/dev/sda"}); len(got) != 1 ||
		got[0].LimitS == nil || *got[0].LimitS != 7 {
		t.Errorf("%+v", got)
	}
	f.want("sda", "70 70")
	if got := f.Again(t.Context(), "b", []string{"/dev/sda"}); len(got) != 0 {
		t.Errorf("a set that set nothing: %+v", got)
	}
	// Another drive is plugged in.
	f.put(filepath.Join(f.sys, "block/sda/diskseq"), "777")
	f.drive("sda", "70 70")
	if got := f.Report("a", []string{"/dev/sda"}); len(got) != 1 || got[0].LimitS != nil {
		t.Errorf("reported of another drive: %+v", got)
	}
	f.stop("a")
	f.want("sda", "70 70")
	f.wantNoState()

	f.start("a", "/dev/sda")
	if err := os.RemoveAll(filepath.Join(f.sys, "block/sda")); err != nil {
		t.Fatal(err)
	}
	f.stop("a")
	f.wantNoState()
}

// TestElsewhere: a value that somebody else has set meanwhile stays.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.device("sda", 1, 1)
	f.drive("sda", "0 0")
	f.start("a", "/dev/sda")
	f.drive("sda", "50 50")
	f.stop("a")
	f.want("sda", "50 50")
	f.wantNoState()
}

// TestCannotRestore: a setting that could not be restored is restored later.
func TestCannotRestore(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.device("sda", 1, 1)
	f.drive("sda", "0 0")
	f.start("a", "/dev/sda")
	good := f.smart
	f.smart = "smartctl-that-is-nowhere"
	f.live["a"] = false
	if err := f.Release(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "sda") {
		t.Errorf("%v", err)
	}
	f.smart = good
	if err := f.Release(t.Context(), "other"); err != nil {
		t.Error(err)
	}
	f.want("sda", "0 0")
	f.wantNoState()
}

// TestNothingUnnoted: nothing is changed if the change cannot be noted first.
func TestNothingUnnoted(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.device("sda", 1, 1)
	f.drive("sda", "0 0")
	f.run = filepath.Join(f.run, "missing")
	got := f.start("a", "/dev/sda")
	if len(got) != 1 || got[0].LimitS != nil || got[0].Note == "" {
		t.Errorf("%+v", got)
	}
	if n := f.calls(); n != 0 {
		t.Errorf("smartctl was called %d times", n)
	}
	f.want("sda", "0 0")
	f.wantTimer("sda", "30")
}

// TestReports: each disk below a set is asked for its health. A USB disk of an unknown bridge is
// asked once more, as a SATA disk. A disk that sleeps is not woken.
func TestReports(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	for i, name := range []string{"sda", "sdb", "sdc", "sdd", "sde", "sdf"} {
		f.device(name, i+1, i+1)
	}
	f.device("dm-0", 8, 0, "sda", "sdb")
	f.partition("sda", "sda1", 9)
	f.put(filepath.Join(f.sys, "block/sdd/device/power/runtime_status"), "suspended\n")
	f.put(f.smart, `#!/bin/sh
case "$*" in
"--json -x -n standby /dev/sda") echo '{"serial_number": "A"}'; exit 64;;
"--json -x -n standby /dev/sd"[bf]) echo "{\"m\": \"$5: Unknown USB bridge [0x1:0x2]\"}"; exit 1;;
"--json -x -n standby -d sat /dev/sdb") echo '{"serial_number": "B"}';;
"--json -x -n standby -d sat /dev/sdf") echo '{"m": "Read Device Identity failed"}'; exit 2;;
"--json -x -n standby /dev/sdc")
	echo '{"m": "Device is in STANDBY mode, exit(2)", "smartctl": {"exit_status": 2}}'; exit 2;;
"--json -x /dev/sd"[cd]) echo '{"serial_number": "woken"}';;
"--json -x -n standby -d megaraid,0 /dev/sde") echo '{"serial_number": "E0"}';;
"--json -x -n standby -d megaraid,7 /dev/sde") echo '{"serial_number": "E7"}';;
*) exit 1;;
esac`)
	for _, c := range []struct {
		paths []string
		o     ReportOptions
		want  string
	}{
		{[]string{"/dev/dm-0", "/dev/sda"}, ReportOptions{}, `/dev/sda {"serial_number": "A"} ` +
			`/dev/sdb {"serial_number": "B"}`},
		{[]string{"/dev/sda1"}, ReportOptions{}, `/dev/sda {"serial_number": "A"}`},
		{[]string{"/srv/file.img"}, ReportOptions{}, ""},
		{[]string{"/dev/sdc", "/dev/sdd"}, ReportOptions{}, "/dev/sdc asleep /dev/sdd asleep"},
		{[]string{"/dev/sdc", "/dev/sdd"}, ReportOptions{Wake: true},
			`/dev/sdc {"serial_number": "woken"} /dev/sdd {"serial_number": "woken"}`},
		{[]string{"/dev/sde"}, ReportOptions{Types: []string{"megaraid,0", "megaraid,7"}},
			`/dev/sde (megaraid,0) {"serial_number": "E0"} ` +
				`/dev/sde (megaraid,7) {"serial_number": "E7"}`},
		{[]string{"/dev/sdf"}, ReportOptions{},
			`/dev/sdf {"m": "/dev/sdf: Unknown USB bridge [0x1:0x2]"}`},
	} {
		var got []string
		for _, r := range f.Reports(t.Context(), c.paths, c.o) {
			said := strings.TrimSpace(string(r.Output))
			if errors.Is(r.Err, ErrAsleep) {
				said = "asleep"
			} else if r.Err != nil {
				t.Errorf("%s: %v", r.Disk, r.Err)
			}
			got = append(got, r.Disk, said)
		}
		if all := strings.Join(got, " "); all != c.want {
			t.Errorf("%v %+v: %s, want %s", c.paths, c.o, all, c.want)
		}
	}
	f.smart = "smartctl-that-is-nowhere"
	if r := f.Reports(t.Context(), []string{"/dev/sda"}, ReportOptions{}); len(r) != 1 ||
		r[0].Err == nil {
		t.Errorf("%+v", r)
	}
}

// TestLongLimit: if a drive's limit is near the kernel's, the kernel's is raised.
func TestLongLimit(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.device("sda", 1, 1)
	f.drive("sda", "0 0")
	f.live["a"] = true
	got := f.Set(t.Context(), "a", []string{"/dev/sda"}, 40*time.Second)
	if len(got) != 1 || Says(got[0]) != "/dev/sda gives up after 40s (had no limit before); the "+
		"kernel waits 3m0s for it (was 30s)" {
		t.Errorf("%+v", got)
	}
	f.want("sda", "400 400")
	f.stop("a")
	f.wantTimer("sda", "30")
	f.want("sda", "0 0")
}
