package files

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParseTable(t *testing.T) {
	t.Parallel()
	a, b := unix.Mkdev(252, 0), unix.Mkdev(252, 1)
	for _, c := range []struct {
		name, table string
		dev         uint64
		in, out     []piece
	}{
		{"lvm, two extents", "0 2048 linear 252:0 4096\n2048 2048 linear 252:0 16384\n", a,
			[]piece{{7, 4096*512 - 10, 20}, {900, 16384 * 512, 512}},
			[]piece{{17, 0, 10}, {900, 2048 * 512, 512}}},
		{"luks2", "0 2064384 crypt aes-xts-plain64 :64:logon:cryptsetup:1 0 252:1 32768 1 " +
			"allow_discards\n", b, []piece{{5, 32768*512 + 512, 512}}, []piece{{5, 512, 512}}},
		{"luks1", "0 100 crypt aes-xts-plain64 0000000000000000 0 252:1 8\n", b,
			[]piece{{0, 0, 1 << 20}}, []piece{{4096, 0, 51200}}},
		{"another device", "0 2048 linear 8:0 0\n", a, []piece{{0, 0, 1 << 20}}, nil},
		{"striped", "0 1024 striped 2 16 252:0 32 252:1 0\n", b, []piece{{50, 8000, 1000}},
			[]piece{{50, 8192 + 8000, 192}, {242, 3 * 8192, 808}}},
		{"not followed", "0 2048 thin 252:0 1\n", a, []piece{{0, 0, 1}}, nil},
	} {
		targets, err := parseTable(c.table)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		var got []piece
		for _, g := range targets {
			if g.uses(c.dev) && g.follow != nil {
				got = append(got, g.follow(c.dev, c.in)...)
			}
		}
		if !slices.Equal(got, c.out) {
			t.Errorf("%s: %v, want %v", c.name, got, c.out)
		}
	}
	for _, bad := range []string{"x\n", "0 y linear 8:0 0\n", "-1 5 linear 8:0 0\n"} {
		if got, err := parseTable(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

// dumped is what dumpe2fs 1.47.0 says of a file system with blocks of 1 KiB, shortened.
const dumped = `Filesystem volume name:   <none>
First block:              1
Free blocks:              232856


Group 0: (Blocks 1-8192) csum 0xb1f1 [ITABLE_ZEROED]
  Primary superblock at 1, Group descriptors at 2-3
  Reserved GDT blocks at 4-259
  Block bitmap at 260 (+259), csum 0xd09758a5
  Inode bitmap at 276 (+275), csum 0x0a088146
  Inode table at 292-803 (+291)
  0 free blocks, 2033 free inodes, 3 directories, 2033 unused inodes
  Free blocks: 
  Free inodes: 16-2048
Group 1: (Blocks 8193-16384) csum 0xa831 [INODE_UNINIT, ITABLE_ZEROED]
  Backup superblock at 8193, Group descriptor at 8194
  Block bitmap at 261 (bg #0 + 260), csum 0xc924475c
  5067 free blocks, 2048 free inodes, 0 directories, 2048 unused inodes
  Free blocks: 11318-11320, 11400, 12000-16384
  Free inodes: 2049-4096
`

func TestDump(t *testing.T) {
	t.Parallel()
	ask := func(block, count int64) piece { return piece{block * 1024, block * 1024, count * 1024} }
	e := &extDump{finder: &finder{ctx: context.Background()}, info: extInfo{block: 1024}, fs: "fs",
		pieces: []piece{ask(0, 5), ask(260, 2), ask(276, 1), ask(800, 5), ask(8193, 2),
			ask(11319, 3), ask(11400, 2), ask(16000, 1000)}}
	for line := range strings.SplitSeq(dumped, "\n") {
		e.line(line)
	}
	type said struct {
		block, count int64
		what         string
	}
	var got []said
	for _, p := range joined(e.facts) {
		got = append(got, said{p.top / 1024, p.size / 1024, p.fact.What})
	}
	want := []said{{1, 1, "superblock"}, {2, 2, "group descriptors"},
		{4, 1, "reserved group descriptors"}, {260, 2, "block bitmap"}, {276, 1, "inode bitmap"},
		{800, 4, "inode table"}, {8193, 1, "backup of the superblock"},
		{8194, 1, "group descriptors"}, {11319, 2, "free space"}, {11400, 1, "free space"},
		{16000, 385, "free space"}}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// TestRows: every block that was asked about is in the rows, a block is free only if all of it is,
// and a block of two files is in two rows.
func TestRows(t *testing.T) {
	t.Parallel()
	free, file := Fact{Owner: OwnerFree}, Fact{Owner: OwnerFile, Path: "/a"}
	other := Fact{Owner: OwnerFile, Path: "/b"}
	parts := Fact{Owner: OwnerUnknown, What: "its parts belong to different things"}
	at := func(top, size int64, f Fact) placed { return placed{top, size, f, false} }
	for _, c := range []struct {
		name  string
		facts []placed
		want  []Row
	}{
		{"whole", []placed{at(0, 8192, free), at(8192, 8192, file)},
			[]Row{{0, 2, "p", free}, {2, 2, "p", file}}},
		{"half free", []placed{at(0, 2048, free), at(2048, 2048, file), at(4096, 12288, free)},
			[]Row{{0, 1, "p", file}, {1, 3, "p", free}}},
		{"free in pieces", []placed{at(0, 1024, free), at(1024, 3072, free), at(4096, 12288, file)},
			[]Row{{0, 1, "p", free}, {1, 3, "p", file}}},
		{"only a part is free", []placed{at(0, 2048, free), at(4096, 12288, file)},
			[]Row{{0, 1, "p", parts}, {1, 3, "p", file}}},
		{"shared", []placed{at(0, 16384, file), at(4096, 4096, other)},
			[]Row{{0, 4, "p", file}, {1, 1, "p", other}}},
	} {
		if got := rows([]Run{{0, 4, "p"}}, c.facts, 4096); !slices.Equal(got, c.want) {
			t.Errorf("%s:\ngot  %v\nwant %v", c.name, got, c.want)
		}
	}
}

// TestWithout compares with a model of single bytes.
func TestWithout(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		var pieces []piece
		var facts []placed
		has := map[int64]int64{} // top by at
		for at := int64(0); at < 100; {
			at += rng.Int64N(10)
			p := piece{at + 1000, at, 1 + rng.Int64N(10)}
			pieces = append(pieces, p)
			for i := range p.size {
				has[p.top+i] = p.at + i
			}
			at += p.size
		}
		for range rng.IntN(12) {
			p := placed{top: 1000 + rng.Int64N(100), size: 1 + rng.Int64N(20)}
			facts = append(facts, p)
			for i := range p.size {
				delete(has, p.top+i)
			}
		}
		for _, p := range without(pieces, facts) {
			for i := range p.size {
				if at, ok := has[p.top+i]; !ok || at != p.at+i {
					t.Fatalf("seed %d: byte %d is in the rest of %v without %v", seed, p.top+i,
						pieces, facts)
				}
				delete(has, p.top+i)
			}
		}
		if len(has) > 0 {
			t.Fatalf("seed %d: %v is missing in the rest of %v without %v", seed, has, pieces,
				facts)
		}
	}
}

func TestCommands(t *testing.T) {
	t.Parallel()
	var numbers, got []string
	for range 40_000 {
		numbers = append(numbers, "1234567")
	}
	err := commands("icheck", numbers, func(line string) error {
		if len(line) > maxArgument {
			t.Errorf("a line of %d bytes", len(line))
		}
		got = append(got, strings.Fields(line)[1:]...)
		return nil
	})
	if err != nil || !slices.Equal(got, numbers) {
		t.Errorf("%d of %d, %v", len(got), len(numbers), err)
	}
}

func FuzzEntries(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 24, 0, 8, 'a', 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, e := range appendEntries(nil, ".", b) {
			if strings.Contains(e.path, "\x00") {
				t.Fatalf("%q", e.path)
			}
		}
	})
}

func FuzzTable(f *testing.F) {
	f.Add("0 1024 striped 2 16 252:0 32 252:1 0\n0 5 crypt a b 0 8:1 7")
	f.Fuzz(func(t *testing.T, s string) {
		targets, _ := parseTable(s)
		for _, g := range targets {
			for _, d := range g.devices {
				if g.follow != nil {
					g.follow(d, []piece{{0, 0, 1 << 30}})
				}
			}
		}
	})
}

// TestXFSFact reads lines of xfs_db 6.1.0.
func TestXFSFact(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]Fact{
		"block 0 (0/0) type sb":    {Owner: OwnerMetadata, What: "superblock"},
		"block 1 (0/1) type btbno": {Owner: OwnerMetadata, What: "free space tree"},
		"block 30 (0/30) type data inode 131 a dir/a.bin": {Owner: OwnerFile, Inode: 131,
			Path: "/a dir/a.bin"},
		"block 31 (0/31) type data inode 132": {Owner: OwnerFile, Inode: 132},
		"block 40000 (1/7232) type free2":     {Owner: OwnerFree, What: "free space"},
		"block 40001 (1/7233) type free1": {Owner: OwnerUnknown,
			What: "xfs_db finds contradictions about it"},
		"block 9 (0/9) type dir inode 128 sub": {Owner: OwnerMetadata, Inode: 128, Path: "/sub",
			What: "directory"},
		"block 8 (0/8) type news": {Owner: OwnerMetadata, What: "metadata (news)"},
	} {
		want.Filesystem = "fs"
		if _, got, ok := xfsFact(line, "fs"); !ok || got != want {
			t.Errorf("%s: %+v, want %+v", line, got, want)
		}
	}
	for _, line := range []string{"", "block 1 (0/1) type", "bad block 0/24", "xfs_db> "} {
		if _, got, ok := xfsFact(line, "fs"); ok {
			t.Errorf("%q: %+v", line, got)
		}
	}
}

// TestXFSQuestions: a question ends with its group and with the file system, and begins before the
// blocks, which may not read.
func TestXFSQuestions(t *testing.T) {
	t.Parallel()
	i := xfsInfo{block: 4096, groups: 4, groupBlocks: 1000, groupLog: 10, size: 3500 * 4096}
	for _, c := range []struct {
		blocks []int64
		want   string
	}{
		{[]int64{500, 520}, "fsblock 484\nfsblock 496\nfsblock 499\nblockuse -c 37\n"},
		{[]int64{998, 999, 1000, 1002}, "fsblock 982\nfsblock 994\nfsblock 997\n" +
			"blockuse -c 18\nblockuse -c 6\nblockuse -c 3\n" +
			"fsblock 1024\nfsblock 1024\nfsblock 1024\nblockuse -c 3\n"},
		{[]int64{200, 300}, "fsblock 184\nfsblock 196\nfsblock 199\nblockuse -c 17\n" +
			"fsblock 284\nfsblock 296\nfsblock 299\nblockuse -c 17\n"},
		{[]int64{3499}, "fsblock 3555\nfsblock 3567\nfsblock 3570\nblockuse -c 17\n" +
			"blockuse -c 5\nblockuse -c 2\n"},
	} {
		if got := i.questions(c.blocks, ""); got != "blockget\n"+c.want {
			t.Errorf("%v:\ngot  %q\nwant %q", c.blocks, got, c.want)
		}
	}
	for _, at := range []int64{0, 999 * 4096, 1000 * 4096, 3999 * 4096} {
		if got := i.bytesOf(i.number(at)); got != at {
			t.Errorf("%d: %d", at, got)
		}
	}
}

// TestForgedNames: a name with line breaks is taken for no answer about another block or inode.
func TestForgedNames(t *testing.T) {
	t.Parallel()
	b := &xfsInfo{block: 4096, groups: 1, groupBlocks: 1000, groupLog: 10}
	for text, forged := range map[string]bool{
		"block 7 (0/7) type data inode 131 a\nblock 9 (0/9) type data inode 132 b": false,
		"block 7 (0/7) type data inode 131 x\nblock 9 (0/9) type data inode 132 etc/passwd\n" +
			"block 9 (0/9) type data inode 132 b": true,
		"block 7 (0/7) type data inode 131 x\nblock 9 (0/9) type free2\n" +
			"block 9 (0/9) type data inode 132 b": true,
	} {
		n := xfsNames{blocks: map[int64]uint64{7: 131, 9: 132}, names: map[uint64]string{}}
		for line := range strings.Lines(text) {
			n.line(strings.TrimSuffix(line, "\n"), b)
		}
		if n.forged != forged || !forged && (n.names[131] != "/a" || n.names[132] != "/b") {
			t.Errorf("%q: %+v", text, n)
		}
	}
	honest := "debugfs: stat <12>\nInode: 12   Type: symlink    Mode:  0777   Flags: 0x0\n" +
		"debugfs: stat \"/l\"\nInode: 12   Type: symlink    Mode:  0777   Flags: 0x0\n%s" +
		"debugfs: stat <13>\nInode: 13   Type: regular    Mode:  0644   Flags: 0x80000\n" +
		"debugfs: stat \"/not it\"\nInode: 14   Type: regular    Mode:  0644   Flags: 0x80000\n"
	for more, forged := range map[string]bool{"": false,
		"Fast link dest: \"\ndebugfs: stat <13>\nInode: 13   Type: directory \"\n": true} {
		r := statReader{ask: []string{"<12>", `"/l"`, "<13>", `"/not it"`},
			kinds: map[uint64]extKind{}}
		for line := range strings.Lines(fmt.Sprintf(honest, more)) {
			r.line(strings.TrimSuffix(line, "\n"))
		}
		if r.forged != forged || !forged && (r.kinds[12] != extKind{"symlink", true} ||
			r.kinds[13] != extKind{"regular", false}) {
			t.Errorf("%q: %+v", more, r)
		}
	}
	// Where it was last mounted, as dumpe2fs prints it.
	e := &extDump{finder: &finder{ctx: context.Background()}, info: extInfo{block: 1024}, fs: "fs",
		pieces: []piece{{0, 0, 1 << 20}}}
	for line := range strings.Lines("Last mounted on:  /\nGroup 0:\n  Free blocks: 5-900\n" +
		"Group 0: (Blocks 1-8192)\n  Free blocks: 7\n") {
		e.line(strings.TrimSuffix(line, "\n"))
	}
	if len(e.facts) != 1 || e.facts[0].top != 7*1024 || e.facts[0].size != 1024 {
		t.Errorf("%+v", e.facts)
	}
}

// TestFreeBlocks: a block is free if all that is known of it is a proof.
func TestFreeBlocks(t *testing.T) {
	t.Parallel()
	free := Fact{Owner: OwnerFree}
	got := freeBlocks([]placed{{0, 8192, free, true}, {4096, 4096, Fact{Owner: OwnerFile}, false},
		{8192, 2048, free, true}, {10240, 2048, free, true}, {16384, 4096, free, false},
		{16384, 4096, free, true}, {20480, 1024, free, true}}, 4096)
	if want := []Run{{Block: 0, Count: 1}, {Block: 2, Count: 1}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
