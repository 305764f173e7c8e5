package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/blockdev"
	"ublkremap/metadata"
	"ublkremap/test/vmtest"
)

func TestCreate(t *testing.T) {
	useRuntimeDir(t)
	disk := diskFile(t, 64<<20)
	check := func() {
		t.Helper()
		if r := mustRun(t, 0, "metadata", "check", disk); !strings.Contains(r.out, "no problems") {
			t.Error(r.out)
		}
	}

	// A dry run changes nothing.
	before, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	var plan created
	if err := json.Unmarshal([]byte(mustRun(t, 0, "create", disk, "--dry-run", "--json", "--name",
		"a", "--spare", "2MiB").out), &plan); err != nil {
		t.Fatal(err)
	}
	if !plan.DryRun || plan.Name != "a" || plan.SpareBytes != 2<<20 || plan.SpareUnits != 512 {
		t.Errorf("%+v", plan)
	}
	after, err := os.ReadFile(disk)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("a dry run changed the disk (%v)", err)
	}

	// A blank disk needs no confirmation.
	var c created
	if err := json.Unmarshal([]byte(mustRun(t, 0, "create", disk, "--json", "--name", "a",
		"--spare", "2MiB").out), &c); err != nil {
		t.Fatal(err)
	}
	if c.DryRun || c.SizeBlocks != plan.SizeBlocks || c.SpareUnits != 512 ||
		c.SizeBytes != int64(c.SizeBlocks)*int64(c.BlockSize) || len(c.Replaced) != 0 {
		t.Errorf("%+v", c)
	}
	check()

	// Contents are not overwritten without confirmation.
	if r := mustRun(t, exit.Refused, "create", disk); !strings.Contains(r.err, `"a"`) ||
		!strings.Contains(r.err, "--force") {
		t.Error(r.err)
	}
	if r := mustRun(t, exit.Refused, "create", disk, "--force"); !strings.Contains(r.err,
		"--yes") || strings.Contains(r.err, ".:") {
		t.Error(r.err)
	}
	mustRun(t, 0, "create", disk, "--force", "--dry-run")
	check()
	mustRun(t, 0, "create", disk, "--force", "--yes", "--name", "b", "--spare", "1%")
	check()
	if sb := mustRun(t, 0, "metadata", "dump", disk); !strings.Contains(sb.out, `"name": "b"`) {
		t.Errorf("%.300s", sb.out)
	}
}

func TestCreateRefusesWhatIsThere(t *testing.T) {
	useRuntimeDir(t)
	for _, c := range []struct {
		what string
		at   int64
		mark string
	}{
		{"btrfs", 65600, "_BHRfS_M"}, {"xfs", 0, "XFSB"}, {"gpt backup", 64<<20 - 512, "EFI PART"},
		{"linux_raid_member 1.0", 64<<20 - 8192, "\xfc\x4e\x2b\xa9\x01\x00\x00\x00"},
	} {
		disk := diskFile(t, 64<<20)
		f, err := os.OpenFile(disk, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte(c.mark), c.at); err != nil {
			t.Fatal(err)
		}
		if r := mustRun(t, exit.Refused, "create", disk); !strings.Contains(r.err, c.what) {
			t.Error(r.err)
		}
		mustRun(t, 0, "create", disk, "--force", "--yes")
		if found := blockdev.Detect(f, 64<<20); len(found.Signatures) != 0 {
			t.Errorf("%s: left behind: %v", c.what, found.Signatures)
		}
		f.Close()
		mustRun(t, 0, "metadata", "check", disk)
	}
}

func TestCreateArguments(t *testing.T) {
	useRuntimeDir(t)
	disk := diskFile(t, 64<<20)
	list := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(list, []byte("12\nx\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"--spare", "x"}, {"--spare", "0"}, {"--spare", "1%1"}, {"--spare", "5000"},
		{"--spare", "1GiB"}, {"--name", "a b"},
		{"--name", strings.Repeat("x", 65)}, {"--name", "../x"}, {"--badblocks", list},
		{"--badblocks-size", "77", "--badblocks", list},
	} {
		if r := mustRun(t, exit.Usage, append([]string{"create", disk}, args...)...); r.out != "" {
			t.Errorf("%v: %s", args, r.out)
		}
	}
	mustRun(t, exit.Usage, "create", diskFile(t, 1<<20))
	mustRun(t, exit.Usage, "create", "/dev/null")
	mustRun(t, exit.NotFound, "metadata", "check", disk)
}

func TestCreateWithSpareDevice(t *testing.T) {
	useRuntimeDir(t)
	disk, spare, other := diskFile(t, 64<<20), diskFile(t, 16<<20), diskFile(t, 16<<20)
	var c created
	if err := json.Unmarshal([]byte(mustRun(t, 0, "create", disk, "--spare-device", spare,
		"--json").out), &c); err != nil {
		t.Fatal(err)
	}
	if c.SizeBytes != 64<<20 || c.SpareDevice != spare {
		t.Errorf("%+v", c)
	}
	mustRun(t, 0, "metadata", "check", disk, "--spare-device", spare)
	// The spare device cannot be started as a backing, and an unknown device is not a spare device.
	mustRun(t, exit.Refused, "metadata", "check", spare)
	mustRun(t, exit.NotFound, "metadata", "check", disk, "--spare-device", other)
	mustRun(t, exit.Refused, "create", disk, "--spare-device", spare)
}

func TestCreateWithBadBlocks(t *testing.T) {
	useRuntimeDir(t)
	disk := diskFile(t, 64<<20)
	list := filepath.Join(t.TempDir(), "bad")
	// In blocks of 4 KiB: two in the data, one in the head (metadata).
	if err := os.WriteFile(list, []byte("# found by badblocks\n1000\n1001\n40\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	var c created
	if err := json.Unmarshal([]byte(mustRun(t, 0, "create", disk, "--badblocks", list,
		"--badblocks-size", "4096", "--json").out), &c); err != nil {
		t.Fatal(err)
	}
	if c.BadBlocks != uint64(8192/c.BlockSize) {
		t.Errorf("%+v", c)
	}
	var r struct{ Table metadata.TableCounts }
	if err := json.Unmarshal([]byte(mustRun(t, 0, "metadata", "check", disk, "--json").out),
		&r); err != nil {
		t.Fatal(err)
	}
	if r.Table.Pending != c.BadBlocks {
		t.Errorf("%+v", r.Table)
	}
}

// TestCreateRefusesBeforeItChanges: when a list is refused, for whatever reason, the disk is
// unchanged, also with --force.
func TestCreateRefusesBeforeItChanges(t *testing.T) {
	vmtest.Long(t)
	useRuntimeDir(t)
	disk, spare := diskFile(t, 64<<20), diskFile(t, 32<<20)
	for i, path := range []string{disk, spare} {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		text := bytes.Repeat([]byte{byte(i + 1), 0x5a}, 1<<20)
		for at := int64(0); at < 32<<20; at += 2 << 20 {
			if _, err := f.WriteAt(text, at); err != nil {
				t.Fatal(err)
			}
		}
		f.Close()
	}
	list := func(step, count int) string {
		var b strings.Builder
		for i := range count {
			fmt.Fprintln(&b, 4096+i*step)
		}
		path := filepath.Join(t.TempDir(), "bad")
		if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	sum := func() (sums [2][32]byte) {
		for i, path := range []string{disk, spare} {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			sums[i] = sha256.Sum256(b)
		}
		return sums
	}
	before := sum()
	for _, args := range [][]string{
		// more entries than a checkpoint holds
		{"--badblocks", list(17, 5000), "--badblocks-size", "512"},
		{"--badblocks", list(1, 20), "--badblocks-size", "65536"}, // past the end
		{"--badblocks", filepath.Join(t.TempDir(), "no-such-list")},
		{"--spare", "63MiB"},
		{"--spare-device", spare, "--spare", "1GiB"},
		{"--name", "a b"},
	} {
		r := ublkRemap(t, append([]string{"create", disk, "--force", "--yes"}, args...)...)
		if r.code != exit.Usage && r.code != exit.NotFound {
			t.Errorf("%v: exit code %d: %s", args, r.code, r.err)
		}
		if sum() != before {
			t.Fatalf("%v: refused, and the disks were changed", args)
		}
	}
}

// TestCreateWithADeadZone: a disk with more bad units than spare units can be used. The message
// says what that means, and its advice works.
func TestCreateWithADeadZone(t *testing.T) {
	useRuntimeDir(t)
	disk, zone := diskFile(t, 64<<20), filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(zone, []byte("4096-6000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"create", disk, "--force", "--yes", "--badblocks", zone, "--badblocks-size",
		"4096"}
	r := mustRun(t, 0, args...)
	_, rest, ok := strings.Cut(r.err, "--spare ")
	advised, _, _ := strings.Cut(rest, ",")
	if !ok || !strings.Contains(r.err, "will fail") {
		t.Fatal(r.err)
	}
	mustRun(t, 0, "metadata", "check", disk)
	if r := mustRun(t, 0, append(args, "--spare", advised)...); strings.Contains(r.err,
		"will fail") {
		t.Error(r.err)
	}
	mustRun(t, 0, "metadata", "check", disk)
}

// TestCreateRaces: many processes prepare one disk at once. Those that do not find it in use find
// what the others wrote. The result is one whole set.
func TestCreateRaces(t *testing.T) {
	anywhere(t)
	useRuntimeDir(t)
	for round := range 10 {
		disk := diskFile(t, hostileSize)
		const racers = 6
		results := make(chan result, racers)
		for range racers {
			go func() { results <- ublkRemap(t, "create", disk) }()
		}
		won := 0
		for range racers {
			switch r := <-results; r.code {
			case 0:
				won++
			case exit.Refused:
			default:
				t.Errorf("round %d: exit code %d: %s", round, r.code, r.err)
			}
		}
		if won != 1 {
			t.Errorf("round %d: %d have prepared it", round, won)
		}
		mustRun(t, 0, "metadata", "check", disk)
	}
}

// TestStoppedDiskIsSeen: other tools do not take the disks of a stopped set for empty disks.
func TestStoppedDiskIsSeen(t *testing.T) {
	vmtest.OnOneKernel(t)
	useRuntimeDir(t)
	disk, spare := diskFile(t, 400<<20), diskFile(t, 16<<20)
	mustRun(t, 0, "create", disk, "--name", "seen", "--spare-device", spare)
	alone := diskFile(t, 400<<20)
	mustRun(t, 0, "create", alone, "--name", "alone")
	for _, path := range []string{disk, spare, alone} {
		if tool, err := exec.LookPath("blkid"); err == nil {
			out, err := exec.Command(tool, "-p", "-o", "export", path).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "PTTYPE=dos") ||
				strings.Contains(string(out), "PARTUUID") {
				t.Errorf("%s: blkid says %q, %v", path, out, err)
			}
		}
	}
	if tool, err := exec.LookPath("mkfs.xfs"); err == nil {
		if out, err := exec.Command(tool, "-q", alone).CombinedOutput(); err == nil ||
			!strings.Contains(string(out), "partition table") {
			t.Errorf("mkfs.xfs: %v, %s", err, out)
		}
	}
	mustRun(t, 0, "metadata", "check", alone)
	// For this program it is a set, and nothing else.
	if r := mustRun(t, exit.Refused, "create", alone); strings.Contains(r.err, "dos") {
		t.Error(r.err)
	}
	mustRun(t, 0, "release", alone, "--yes")
	if b := contents(t, alone); b[510] != 0 || b[511] != 0 {
		t.Error("given back, it still looks like one")
	}
}
