package lists

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// needTool skips a test on a machine without a program.
func needTool(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/sbin/", "/sbin/"} {
		if path, err := exec.LookPath(dir + name); err == nil {
			return path
		}
	}
	t.Skipf("this machine has no %s", name)
	return ""
}

func tool(t *testing.T, codes []int, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	if cmd.ProcessState == nil || !slices.Contains(codes, cmd.ProcessState.ExitCode()) {
		t.Fatalf("%s %q: %v\n%s%s", name, args, err, out.String(), said.String())
	}
	return out.String()
}

// someRanges draws whole blocks, in order and apart from each other.
func someRanges(rng *rand.Rand, from, to, block int64) (ranges []Range) {
	for at := from + rng.Int64N(1+(to-from)/20); at < to; {
		n := min(1+rng.Int64N(4), to-at)
		ranges = append(ranges, Range{at * block, (at + n) * block})
		at += n + 1 + rng.Int64N(1+(to-from)/10)
	}
	return ranges
}

func badblocksText(t *testing.T, ranges []Range, block int64) string {
	t.Helper()
	var b bytes.Buffer
	if err := WriteBadblocks(&b, slices.Values(ranges), block); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestExt4Lists: what is exported is taken by mke2fs -l and e2fsck -l, and what dumpe2fs -b says
// then is read as the same blocks, for all sizes of blocks.
func TestExt4Lists(t *testing.T) {
	mke2fs, dumpe2fs := needTool(t, "mke2fs"), needTool(t, "dumpe2fs")
	e2fsck := needTool(t, "e2fsck")
	rng := rand.New(rand.NewPCG(rand.Uint64(), 3))
	for _, c := range []struct {
		options string
		block   int64
	}{
		{"-t ext4 -b 1024", 1024}, {"-t ext2 -b 1024", 1024}, {"-t ext4 -b 2048", 2048},
		{"-t ext4 -b 4096", 4096}, {"-t ext4 -b 65536", 65536},
		{"-t ext4 -b 4096 -O ^64bit,meta_bg,^resize_inode", 4096},
		{"-t ext4 -b 4096 -O bigalloc -C 65536", 4096},
		{"-t ext4 -b 1024 -O bigalloc -C 16384", 1024},
	} {
		dir := t.TempDir()
		image, list := filepath.Join(dir, "image"), filepath.Join(dir, "list")
		size := 50_000 * c.block
		// Behind what every ext4 has at its start, and the rest in another list.
		first := someRanges(rng, 20_000, 30_000, c.block)
		second := someRanges(rng, 35_000, 45_000, c.block)
		write := func(path, text string) {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(image, "")
		if err := os.Truncate(image, size); err != nil {
			t.Fatal(err)
		}
		check := func(want []Range) {
			t.Helper()
			text := tool(t, []int{0}, dumpe2fs, "-b", image)
			got, err := Read(strings.NewReader(text), "list",
				Options{Format: Badblocks, Block: int(c.block), Size: size})
			if err != nil || !slices.Equal(got.Ranges, want) {
				t.Errorf("%s: %q: %v, %v, want %v", c.options, text, got, err, want)
			}
		}
		write(list, badblocksText(t, first, c.block))
		tool(t, []int{0}, mke2fs, append(append([]string{"-q", "-F", "-l", list},
			strings.Fields(c.options)...), image)...)
		check(first)
		write(list, badblocksText(t, second, c.block))
		tool(t, []int{0, 1}, e2fsck, "-f", "-y", "-l", list, image)
		check(append(slices.Clone(first), second...))
		tool(t, []int{0}, e2fsck, "-f", "-n", image)
	}
}

// TestDdrescuelog: a map that is exported is whole to ddrescuelog, which lists the same blocks,
// also beyond 2^32 of them; and a map that it makes of the list is read as the same.
func TestDdrescuelog(t *testing.T) {
	log := needTool(t, "ddrescuelog")
	rng := rand.New(rand.NewPCG(rand.Uint64(), 4))
	for i := range 24 {
		block := int64(512) << (i % 8)
		blocks := int64(1) << (12 + 4*(i%6)) // up to 2^32
		if i >= 12 {
			blocks = 1 << 36
		}
		size := blocks * block
		ranges := someRanges(rng, rng.Int64N(blocks), blocks, block)
		file := filepath.Join(t.TempDir(), "map")
		var b bytes.Buffer
		if err := WriteDdrescue(&b, slices.Values(ranges), size, "a title"); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		tool(t, []int{0}, log, "--show-status", file)
		numbers := badblocksText(t, ranges, block)
		said := tool(t, []int{0}, log, "--list-blocks=-", "-b", fmt.Sprint(block), file)
		if said != numbers {
			t.Fatalf("blocks of %d: ddrescuelog lists\n%swant\n%s", block, said, numbers)
		}
		cmd := exec.Command(log, "--create-mapfile=-+", "-b", strconv.FormatInt(block, 10),
			"-s", strconv.FormatInt(size, 10), "-")
		cmd.Stdin = strings.NewReader(numbers)
		made, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Read(bytes.NewReader(made), "map", Options{Format: Ddrescue, Size: size})
		if err != nil || !slices.Equal(got.Ranges, ranges) {
			t.Fatalf("blocks of %d: %v, %v, want %v\n%s", block, got, err, ranges, made)
		}
	}
}
