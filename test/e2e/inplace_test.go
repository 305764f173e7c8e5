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

	"ublkremap/test/vmtest"
)

// TestInPlace takes a disk with a file system over, heals sectors of it, gives
// it back once they are cured, and finds every file each time: on the plain
// disk, on the device, on the plain disk again.
func TestInPlace(t *testing.T) {
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
	guard(t, 4*time.Minute)
	const bs, seed = 512, 91
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	d := newDisk(t, kindLoop, 64, bs)
	flags := []string{d.path, "--in-place", "--json", "--spare", "2MiB"}
	if withSpare {
		flags = append(flags, "--spare-device",
			vmtest.NewLoop(t, 8<<20, vmtest.LoopOptions{BlockSize: bs}))
	}
	var plan inPlace
	parse(t, remap(t, append([]string{"create", "--dry-run"}, flags...)...), &plan)
	mkfs(t, fs, d.path)
	if !withSpare {
		// Over the whole disk it reaches into what is needed.
		if r := remap(t, append([]string{"create", "--yes"}, flags...)...); r.code != exitRefused ||
			!strings.Contains(r.stderr, fmt.Sprintf("resize2fs %s %dK", d.path,
				plan.SizeBytes/1024)) {
			t.Fatalf("taking over a disk that is full\n%s", r)
		}
		run(t, "mkfs.ext4", "-q", "-F", d.path, fmt.Sprintf("%dK", plan.SizeBytes/1024))
	}
	plain := func() string {
		t.Helper()
		dir := t.TempDir()
		run(t, "mount", "-t", fs, d.path, dir)
		return dir
	}
	dir := plain()
	files := plantTree(t, dir, rng)
	if r := remap(t, append([]string{"create", "--yes"}, flags...)...); r.code != exitRefused ||
		!strings.Contains(r.stderr, dir) {
		t.Errorf("taking over a disk that is mounted\n%s", r)
	}
	umount(t, dir)

	// A place of the displaced head goes bad; its block goes to the spare
	// region at once.
	var bad []extent
	if !withSpare {
		bad = append(bad, extent{plan.SizeBytes + 9*4096 + bs, bs})
	}
	d.setBad(t, bad)
	var took inPlace
	parse(t, remap(t, append([]string{"create", "--yes"}, flags...)...), &took)
	if took.SizeBytes != plan.SizeBytes || took.Moved != int64(len(bad)) || took.Lost != 0 ||
		len(took.Kept) != 1 || !strings.Contains(took.Kept[0], fs) {
		t.Errorf("took over %+v", took)
	}
	if out, err := exec.Command("mount", "-t", fs, d.path,
		t.TempDir()).CombinedOutput(); err == nil {
		t.Errorf("the file system can be mounted underneath: %s", out)
	}
	s := &set{disk: d, name: "in place"}
	t.Cleanup(func() {
		if s.dev != "" && !hung.Load() {
			s.stop(t)
		}
	})
	s.start(t)
	fsck(t, fs, s.dev)
	dir = mount(t, fs, s)
	files.verify(t, dir)

	// Sectors go bad all over the data, and are written over.
	for off := took.HeadBytes + 4096; off < took.SizeBytes-4096; off += 96 << 10 {
		if rng.IntN(2) == 0 {
			bad = append(bad, extent{off / bs * bs, bs})
		}
	}
	if err := os.RemoveAll(filepath.Join(dir, "tree")); err != nil {
		t.Fatal(err)
	}
	syncFS(t, dir)
	d.setBad(t, bad)
	files = plantTree(t, dir, rng)
	more := make([]byte, 1<<20)
	for i := 0; ; i++ { // fill it, so that many of them are met
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("fill%d", i)), more,
			0o600); err != nil || i == 10 {
			break
		}
	}
	syncFS(t, dir)
	files.verify(t, dir)
	st := s.status(t)
	if st.Remaps < 10 {
		t.Errorf("%d remaps: too few to show anything", st.Remaps)
	}
	if r := remap(t, "release", d.path, "--yes"); r.code != exitRefused ||
		!strings.Contains(r.stderr, "stop it first") {
		t.Errorf("giving back a disk that is being served\n%s", r)
	}
	umount(t, dir)
	s.stop(t)

	// While they are bad, nothing is given back.
	spare := flags[len(flags)-1]
	release := []string{"release", d.path, "--json"}
	if withSpare {
		release = append(release, "--spare-device", spare)
	}
	if r := remap(t, append(release, "--yes")...); r.code != exitRefused ||
		!strings.Contains(r.stderr, "a home that is still bad") {
		t.Errorf("giving back a disk whose sectors are bad\n%s", r)
	}
	s.start(t)
	dir = mount(t, fs, s)
	files.verify(t, dir)
	umount(t, dir)
	s.stop(t)
	if r := remap(t, "metadata", "check", d.path); r.code != exitDone {
		t.Errorf("after a refusal\n%s", r)
	}

	d.setBad(t, nil)
	var gave struct {
		Moved   int64 `json:"moved_blocks"`
		NoCopy  []any `json:"no_copy"`
		BadHome []any `json:"bad_home"`
	}
	parse(t, remap(t, append(release, "--yes")...), &gave)
	if gave.Moved < st.Remaps/2 || len(gave.NoCopy)+len(gave.BadHome) > 0 {
		t.Errorf("gave back %+v, of %d remaps", gave, st.Remaps)
	}
	remap(t, "metadata", "check", d.path).want(t, exitNotFound)
	fsck(t, fs, d.path)
	dir = plain()
	files.verify(t, dir)
	umount(t, dir)
	t.Logf("%s: %d units remapped, %d blocks moved home, %d files", fs, st.Remaps, gave.Moved,
		len(files))
}
