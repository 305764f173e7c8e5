package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/blockdev"
	"ublkremap/metadata"
	"ublkremap/test/vmtest"
)

// tool runs a program, or skips the test if it is not installed.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skip(err)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// ext4Disk makes an ext4 with files in it, over the whole of a disk file.
func ext4Disk(t *testing.T, size int64) string {
	t.Helper()
	disk := diskFile(t, size)
	tree := t.TempDir()
	r := rand.New(rand.NewPCG(5, 5))
	for i := range 40 {
		b := make([]byte, 1+r.IntN(200<<10))
		for j := range b {
			b[j] = byte(r.Uint32())
		}
		if err := os.WriteFile(filepath.Join(tree, fmt.Sprintf("file%d", i)), b,
			0o600); err != nil {
			t.Fatal(err)
		}
	}
	tool(t, "mkfs.ext4", "-q", "-F", "-d", tree, disk)
	return disk
}

func content(t *testing.T, disk string, n int64) []byte {
	t.Helper()
	b, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

// exported reads the whole exported contents of a set.
func exported(t *testing.T, paths ...string) []byte {
	t.Helper()
	var devs []metadata.Device
	for _, p := range paths {
		d, err := blockdev.Open(context.Background(), p, blockdev.Options{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		devs = append(devs, d)
	}
	img, err := metadata.Load(devs)
	if err != nil {
		t.Fatal(err)
	}
	v, err := metadata.NewView(img)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, v.Size())
	if _, err := v.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestInPlaceAndRelease(t *testing.T) {
	useRuntimeDir(t)
	disk := ext4Disk(t, 96<<20)

	// The file system reaches to the end. The message says how small it must be.
	before := content(t, disk, 96<<20)
	r := mustRun(t, exit.Refused, "create", disk, "--in-place", "--yes")
	m := regexp.MustCompile(`resize2fs (\S+) (\d+)K`).FindStringSubmatch(r.err)
	if m == nil || m[1] != disk {
		t.Fatalf("no advice: %s", r.err)
	}
	mustRun(t, exit.Refused, "create", disk, "--in-place", "--yes", "--force")
	if !bytes.Equal(before, content(t, disk, 96<<20)) {
		t.Fatal("a refusal changed something")
	}
	tool(t, "e2fsck", "-fp", disk)
	tool(t, "resize2fs", disk, m[2]+"K")
	if err := os.Truncate(disk, 96<<20); err != nil { // resize2fs has shortened the file
		t.Fatal(err)
	}

	before = content(t, disk, 96<<20)
	if r := mustRun(t, exit.Refused, "create", disk, "--in-place"); !strings.Contains(r.err,
		"--yes") {
		t.Error(r.err)
	}
	var c created
	parseJSON(t, mustRun(t, 0, "create", disk, "--in-place", "--dry-run", "--json").out, &c)
	if !c.InPlace || !c.DryRun || len(c.Kept) != 1 || !strings.Contains(c.Kept[0], "ext4") {
		t.Errorf("%+v", c)
	}
	mustRun(t, exit.Usage, "create", disk, "--in-place", "--badblocks", "/dev/null")
	if !bytes.Equal(before, content(t, disk, 96<<20)) {
		t.Fatal("a dry run changed something")
	}
	parseJSON(t, mustRun(t, 0, "create", disk, "--in-place", "--yes", "--json", "--name", "a").out,
		&c)
	if fmt.Sprint(c.SizeBytes/1024) != m[2] || c.Lost != 0 || c.Name != "a" {
		t.Errorf("%+v, want %s KiB", c, m[2])
	}
	before = before[:c.SizeBytes]
	if !bytes.Equal(exported(t, disk), before) {
		t.Fatal("what is exported is not what was there")
	}
	mustRun(t, 0, "metadata", "check", disk)
	if f := detect(t, disk); len(f.Signatures) > 0 {
		t.Errorf("the disk still shows %v", f.Signatures)
	}
	if r := mustRun(t, exit.Refused, "create", disk, "--in-place",
		"--yes"); !strings.Contains(r.err, `"a" already`) {
		t.Error(r.err)
	}

	whole := content(t, disk, 96<<20)
	mustRun(t, exit.Refused, "release", disk)
	var rel released
	parseJSON(t, mustRun(t, 0, "release", disk, "--dry-run", "--json").out, &rel)
	if !rel.DryRun || rel.Name != "a" || rel.SizeBytes != c.SizeBytes || rel.NoCopy == nil ||
		rel.BadHome == nil {
		t.Errorf("%+v", rel)
	}
	if !bytes.Equal(whole, content(t, disk, 96<<20)) {
		t.Fatal("a dry run changed something")
	}
	mustRun(t, 0, "release", disk, "--yes")
	if !bytes.Equal(content(t, disk, c.SizeBytes), before) {
		t.Fatal("the plain disk is not what was exported")
	}
	tool(t, "e2fsck", "-fn", disk)
	mustRun(t, exit.NotFound, "metadata", "check", disk)
	mustRun(t, exit.NotFound, "release", disk, "--yes")
}

func TestInPlaceWithSpareDevice(t *testing.T) {
	useRuntimeDir(t)
	disk, spare := ext4Disk(t, 48<<20), diskFile(t, 16<<20)
	before := content(t, disk, 48<<20)
	var c created
	parseJSON(t, mustRun(t, 0, "create", disk, "--in-place", "--spare-device", spare, "--yes",
		"--json").out, &c)
	if c.SizeBytes != 48<<20 || c.SpareDevice != spare {
		t.Errorf("%+v", c)
	}
	if !bytes.Equal(exported(t, disk, spare), before) {
		t.Fatal("what is exported is not what was there")
	}
	mustRun(t, exit.NotFound, "release", disk, "--yes") // a search does not find files
	mustRun(t, 0, "release", disk, "--spare-device", spare, "--yes")
	if !bytes.Equal(content(t, disk, 48<<20), before) {
		t.Fatal("the plain disk is not what was exported")
	}
	tool(t, "e2fsck", "-fn", disk)
	for _, d := range []string{disk, spare} {
		mustRun(t, exit.NotFound, "metadata", "check", d)
	}
}

func TestInPlaceUnknownContents(t *testing.T) {
	useRuntimeDir(t)
	blank := diskFile(t, 16<<20)
	mustRun(t, 0, "create", blank, "--in-place")
	mustRun(t, 0, "release", blank, "--yes")

	disk := diskFile(t, 16<<20)
	write := func(off int64, s string) {
		t.Helper()
		f, err := os.OpenFile(disk, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte(s), off); err != nil {
			t.Fatal(err)
		}
	}
	write(5000, "something")
	mustRun(t, exit.Refused, "create", disk, "--in-place", "--yes")
	mustRun(t, exit.Refused, "create", disk, "--in-place", "--force")
	mustRun(t, 0, "create", disk, "--in-place", "--force", "--yes")
	if b := exported(t, disk); string(b[5000:5009]) != "something" {
		t.Error("it is gone")
	}
	mustRun(t, 0, "release", disk, "--yes")

	// Contents that would be cut off at the end of the disk, or would stay visible there.
	write(16<<20-512, "EFI PART")
	for _, extra := range [][]string{nil, {"--force"}} {
		if r := mustRun(t, exit.Refused, append([]string{"create", disk, "--in-place", "--yes"},
			extra...)...); !strings.Contains(r.err, "--spare-device") {
			t.Error(r.err)
		}
	}
	spare := diskFile(t, 16<<20)
	mustRun(t, 0, "create", disk, "--in-place", "--yes", "--spare-device", spare)
	mustRun(t, 0, "release", disk, "--yes", "--spare-device", spare)
	write((16<<20/512-16)&^7*512, "\xfc\x4e\x2b\xa9\x01\x00\x00\x00")
	if r := mustRun(t, exit.Refused, "create", disk, "--in-place", "--yes", "--force",
		"--spare-device", spare); !strings.Contains(r.err, "linux_raid_member") {
		t.Error(r.err)
	}
}

// cutDevice fails every write from some point on, like a disk after a power cut.
type cutDevice struct {
	*blockdev.Device
	left *int
}

var errCut = errors.New("power cut")

// Pause does not wait: nothing comes back after a power cut.
func (d cutDevice) Pause(time.Duration) {}

func (d cutDevice) WriteAt(p []byte, off int64) (int, error) {
	if *d.left--; *d.left < 0 {
		return 0, errCut
	}
	return d.Device.WriteAt(p, off)
}

// TestInterrupted cuts a conversion and a release at every write, and finishes them with the
// command.
func TestInterrupted(t *testing.T) {
	vmtest.Long(t)
	useRuntimeDir(t)
	disk, spare := diskFile(t, 12<<20), diskFile(t, 8<<20)
	fill := make([]byte, 8<<20)
	r := rand.New(rand.NewPCG(6, 6))
	for i := range fill {
		fill[i] = byte(r.Uint32())
	}
	cut := func(paths []string, after int, f func([]metadata.Device,
		*metadata.Layout) error) error {
		t.Helper()
		var devs []*blockdev.Device
		var cuts []metadata.Device
		for _, p := range paths {
			d, err := blockdev.Open(context.Background(), p, blockdev.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			devs, cuts = append(devs, d), append(cuts, cutDevice{d, &after})
		}
		p, err := (&app{log: zerolog.Nop()}).planSet(devs, createOptions{spare: "64KiB",
			name: "cut"})
		if err != nil {
			t.Fatal(err)
		}
		return f(cuts, p.Plan())
	}
	take := func(devs []metadata.Device, plan *metadata.Layout) error {
		_, err := metadata.Convert(devs, plan, metadata.ConvertOptions{})
		return err
	}
	give := func(devs []metadata.Device, _ *metadata.Layout) error {
		img, err := metadata.Load(devs)
		if err != nil {
			return err
		}
		_, err = metadata.Revert(img, metadata.ConvertOptions{})
		return err
	}
	for _, paths := range [][]string{{disk}, {disk, spare}} {
		var flags []string
		if len(paths) > 1 {
			flags = []string{"--spare-device", spare}
		}
		mkdisk := func() {
			for _, p := range paths {
				if err := os.Truncate(p, 0); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(disk, fill, 0o600); err != nil {
				t.Fatal(err)
			}
			for p, n := range map[string]int64{disk: 12 << 20, spare: 8 << 20} {
				if err := os.Truncate(p, n); err != nil {
					t.Fatal(err)
				}
			}
		}
		plain := func(what string) {
			t.Helper()
			if !bytes.Equal(content(t, disk, int64(len(fill))), fill) {
				t.Fatalf("%s: the plain disk is not what it was", what)
			}
		}
		seen := map[int]int{}
		for giving, step := range []func([]metadata.Device, *metadata.Layout) error{take, give} {
			for n, done := 0, false; !done; n++ {
				what := fmt.Sprintf("%d devices, giving back: %d, cut at write %d", len(paths),
					giving, n)
				mkdisk()
				if giving == 1 {
					mustRun(t, 0, append([]string{"create", disk, "--in-place", "--yes", "--force",
						"--spare", "64KiB"}, flags...)...)
				}
				done = cut(paths, n, step) == nil
				// A half converted disk is not served, and the message says what to do.
				res := ublkRemap(t, "start", disk)
				if strings.Contains(res.err, "ublk-remap release") {
					seen[giving]++
					if res.code != exit.Refused {
						t.Fatalf("%s: start exits with %d: %s", what, res.code, res.err)
					}
				}
				if (n+giving)%2 == 0 && giving == 0 {
					if probed(t, paths) { // otherwise only the next command can finish it
						mustRun(t, 0, append([]string{"release", disk, "--yes"}, flags...)...)
					}
					plain(what)
					continue
				}
				if giving == 1 {
					if probed(t, paths) {
						mustRun(t, 0, append([]string{"release", disk, "--yes"}, flags...)...)
					}
					plain(what)
					continue
				}
				if !done {
					// The last of its writes only make more copies.
					again := append([]string{"create", disk, "--in-place", "--yes", "--force"},
						flags...)
					if n%4 == 1 {
						again = append(again, "--spare", "64KiB") // as it was
					}
					res := ublkRemap(t, again...)
					if res.code != 0 && !strings.Contains(res.err, `of "cut" already`) {
						t.Fatalf("%s: %s", what, res.err)
					}
				}
				if !bytes.Equal(exported(t, paths...)[:len(fill)], fill) {
					t.Fatalf("%s: what is exported is not what was there", what)
				}
			}
		}
		if len(paths) == 1 && (seen[0] == 0 || seen[1] == 0) {
			t.Errorf("no cut left anything half done: %v", seen)
		}
		t.Logf("%d devices: half done %v", len(paths), seen)
	}
}

// probed reports whether any of the files has a superblock.
func probed(t *testing.T, paths []string) bool {
	t.Helper()
	for _, p := range paths {
		d, err := blockdev.Open(context.Background(), p, blockdev.Options{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		_, err = metadata.Probe(d)
		if d.Close(); err == nil {
			return true
		}
	}
	return false
}

func detect(t *testing.T, path string) blockdev.Findings {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return blockdev.Detect(f, st.Size())
}

func parseJSON(t *testing.T, text string, to any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), to); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}
