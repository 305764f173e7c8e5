package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ublkremap/test/rig"
	"ublkremap/test/vmtest"
)

// TestInPlace converts a disk with a file system, heals sectors of it, reverts
// it once they work again, and finds every file each time: on the plain
// disk, on the device, on the plain disk again.
func TestInPlace(t *testing.T) {
	vmtest.OnOneKernel(t)
	vmtest.NeedUblk(t)
	t.Run("ext4", func(t *testing.T) { testInPlace(t, "ext4", false) })
	if vmtest.Full() {
		t.Run("xfs with a spare device", func(t *testing.T) { testInPlace(t, "xfs", true) })
	}
}

// inPlace is what the tests use of `create --in-place --json`.
type inPlace struct {
	SizeBytes int64    `json:"size_bytes"`
	HeadBytes int64    `json:"head_bytes"`
	Kept      []string `json:"kept"`
	Moved     int64    `json:"moved_blocks"`
	Lost      int64    `json:"lost_blocks"`
}

func testInPlace(t *testing.T, fs string, withSpare bool) {
	rig.Guard(t, 4*time.Minute)
	const bs, seed = 512, 91
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	d := rig.NewDisk(t, rig.KindLoop, 64, bs)
	flags := []string{d.Path, "--in-place", "--json", "--spare", "2MiB"}
	if withSpare {
		flags = append(flags, "--spare-device",
			vmtest.NewLoop(t, 8<<20, vmtest.LoopOptions{BlockSize: bs}))
	}
	var plan inPlace
	rig.Parse(t, rig.Remap(t, append([]string{"create", "--dry-run"}, flags...)...), &plan)
	rig.Mkfs(t, fs, d.Path)
	if !withSpare {
		// The file system fills the whole disk, and so reaches into the room that the metadata
		// needs.
		if r := rig.Remap(t, append([]string{"create", "--yes"},
			flags...)...); r.Code != rig.ExitRefused ||
			!strings.Contains(r.Stderr, fmt.Sprintf("resize2fs %s %dK", d.Path,
				plan.SizeBytes/1024)) {
			t.Fatalf("converting a disk that is full\n%s", r)
		}
		rig.Run(t, "mkfs.ext4", "-q", "-F", d.Path, fmt.Sprintf("%dK", plan.SizeBytes/1024))
	}
	plain := func() string {
		t.Helper()
		dir := t.TempDir()
		rig.Run(t, "mount", "-t", fs, d.Path, dir)
		return dir
	}
	dir := plain()
	files := rig.PlantTree(t, dir, rng)
	if r := rig.Remap(t, append([]string{"create", "--yes"},
		flags...)...); r.Code != rig.ExitRefused ||
		!strings.Contains(r.Stderr, dir) {
		t.Errorf("converting a disk that is mounted\n%s", r)
	}
	rig.Unmount(t, dir)

	// A place of the displaced head goes bad; its block goes to the spare
	// region at once.
	var bad []rig.Extent
	if !withSpare {
		bad = append(bad, rig.At(plan.SizeBytes+9*4096+bs, bs))
	}
	d.SetBad(t, bad)
	var took inPlace
	rig.Parse(t, rig.Remap(t, append([]string{"create", "--yes"}, flags...)...), &took)
	if took.SizeBytes != plan.SizeBytes || took.Moved != int64(len(bad)) || took.Lost != 0 ||
		len(took.Kept) != 1 || !strings.Contains(took.Kept[0], fs) {
		t.Errorf("took over %+v", took)
	}
	if out, err := exec.Command("mount", "-t", fs, d.Path,
		t.TempDir()).CombinedOutput(); err == nil {
		t.Errorf("the file system can be mounted underneath: %s", out)
	}
	s := &rig.Set{Path: d.Path, Name: "in place"}
	s.Start(t)
	rig.Fsck(t, fs, s.Dev)
	dir = s.Mount(t, fs)
	files.Verify(t, dir)

	// Sectors go bad all over the data, and are written over.
	for off := took.HeadBytes + 4096; off < took.SizeBytes-4096; off += 96 << 10 {
		if rng.IntN(2) == 0 {
			bad = append(bad, rig.At(off/bs*bs, bs))
		}
	}
	if err := os.RemoveAll(filepath.Join(dir, "tree")); err != nil {
		t.Fatal(err)
	}
	rig.SyncFS(t, dir)
	d.SetBad(t, bad)
	files = rig.PlantTree(t, dir, rng)
	more := make([]byte, 1<<20)
	for i := 0; ; i++ { // fill it, so that many of them are met
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("fill%d", i)), more,
			0o600); err != nil || i == 10 {
			break
		}
	}
	rig.SyncFS(t, dir)
	files.Verify(t, dir)
	st := s.Status(t)
	if st.Remaps < 10 {
		t.Errorf("%d remaps: too few to show anything", st.Remaps)
	}
	if r := rig.Remap(t, "release", d.Path, "--yes"); r.Code != rig.ExitRefused ||
		!strings.Contains(r.Stderr, "stop it first") {
		t.Errorf("giving back a disk that is being served\n%s", r)
	}
	rig.Unmount(t, dir)
	s.Stop(t)

	// While they are bad, the disk is not reverted.
	spare := flags[len(flags)-1]
	release := []string{"release", d.Path, "--json"}
	if withSpare {
		release = append(release, "--spare-device", spare)
	}
	if r := rig.Remap(t, append(release, "--yes")...); r.Code != rig.ExitRefused ||
		!strings.Contains(r.Stderr, "a home that is still bad") {
		t.Errorf("giving back a disk whose sectors are bad\n%s", r)
	}
	s.Start(t)
	dir = s.Mount(t, fs)
	files.Verify(t, dir)
	rig.Unmount(t, dir)
	s.Stop(t)
	if r := rig.Remap(t, "metadata", "check", d.Path); r.Code != rig.ExitDone {
		t.Errorf("after a refusal\n%s", r)
	}

	d.SetBad(t, nil)
	var gave struct {
		Moved   int64 `json:"moved_blocks"`
		NoCopy  []any `json:"no_copy"`
		BadHome []any `json:"bad_home"`
	}
	rig.Parse(t, rig.Remap(t, append(release, "--yes")...), &gave)
	if gave.Moved < st.Remaps/2 || len(gave.NoCopy)+len(gave.BadHome) > 0 {
		t.Errorf("gave back %+v, of %d remaps", gave, st.Remaps)
	}
	rig.Remap(t, "metadata", "check", d.Path).Want(t, rig.ExitNotFound)
	rig.Fsck(t, fs, d.Path)
	dir = plain()
	files.Verify(t, dir)
	rig.Unmount(t, dir)
	t.Logf("%s: %d units remapped, %d blocks moved home, %d files", fs, st.Remaps, gave.Moved,
		len(files))
}
