package files

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// An xfs that is not mounted is asked by xfs_db. Its command blockget reads all metadata, and
// blockuse says what the blocks from the current one on are. Where it prints names, these can hold
// line breaks, and so look like more answers. So what a block is, and above all what is free, is
// read from an output without names. The names are asked for afterwards, and believed only if each
// block has one answer.

// xfsUsed is a line of the output of blockuse.
var xfsUsed = regexp.MustCompile(`^block (\d+) \(\d+/\d+\) type (\S+)(?: inode (\d+)(?: (.*))?)?$`)

// xfsTypes are the types of blockuse that are neither a file nor free.
var xfsTypes = map[string]string{"sb": "superblock", "agf": "group header", "agi": "group header",
	"agfl": "group header", "btbno": "free space tree", "btcnt": "free space tree",
	"freelist": "free list", "inode": "inode table", "btino": "inode tree",
	"btfino": "inode tree", "log": "journal", "btrmap": "reverse map tree",
	"btrefc":   "reference count tree",
	"btrefcnt": "reference count tree", "rmap": "reverse map tree", "refc": "reference count tree",
	"cowdata": "copy on write in progress", "dir": "directory", "quota": "quota"}

// xfsFact reads a line of blockuse.
func xfsFact(line, fs string) (block int64, fact Fact, ok bool) {
	m := xfsUsed.FindStringSubmatch(line)
	if m == nil {
		return 0, fact, false
	}
	block, err := strconv.ParseInt(m[1], 10, 62)
	fact = Fact{Owner: OwnerMetadata, Filesystem: fs}
	fact.Inode, _ = strconv.ParseUint(m[3], 10, 64)
	if m[4] != "" {
		fact.Path = rooted("/", m[4])
	}
	switch kind := m[2]; kind {
	case "free2":
		fact.Owner, fact.What = OwnerFree, "free space"
	case "data", "rldata":
		fact.Owner = OwnerFile
	case "symlink":
		fact.Owner, fact.What = OwnerFile, "symbolic link"
	case "attr":
		fact.Owner, fact.What = OwnerFile, "extended attributes"
	case "btbmapa", "btbmapd", "bmap":
		fact.Owner, fact.What = OwnerFile, "its map of extents"
	case "free1", "unknown", "missing":
		fact.Owner, fact.What = OwnerUnknown, "xfs_db finds contradictions about it"
	default:
		if fact.What = xfsTypes[kind]; fact.What == "" {
			fact.What = "metadata (" + kind + ")"
		}
	}
	return block, fact, err == nil
}

// xfsBefore are how many blocks before a bad one xfs_db is led to. To go to a block it reads it.
// That fails for a bad one, and then it stays where it was.
var xfsBefore = []int64{16, 4, 1}

// xfsGap is how many blocks between two may be asked about too.
const xfsGap = 64

// questions asks xfs_db about blocks, which are in order. flags are those of blockget and blockuse.
// A question does not go past the end of its group, where the numbers jump.
func (i *xfsInfo) questions(blocks []int64, flags string) string {
	var out strings.Builder
	_, _ = fmt.Fprintf(&out, "blockget%s\n", flags)
	for len(blocks) > 0 {
		first, group := blocks[0], blocks[0]/i.groupBlocks
		n := 1
		for n < len(blocks) && blocks[n]-blocks[n-1] <= xfsGap &&
			blocks[n]/i.groupBlocks == group {
			n++
		}
		count := blocks[n-1] + 1 - first
		end := min((group+1)*i.groupBlocks, i.size/i.block)
		blocks = blocks[n:]
		from := func(before int64) int64 { return max(group*i.groupBlocks, first-before) }
		for _, before := range xfsBefore {
			_, _ = fmt.Fprintf(&out, "fsblock %d\n", i.number(from(before)*i.block))
		}
		for _, before := range xfsBefore {
			// It is all there is to ask, unless it goes past the end, which is refused.
			_, _ = fmt.Fprintf(&out, "blockuse%s -c %d\n", flags, count+first-from(before))
			if from(1)+count+first-from(before) <= end {
				break
			}
		}
	}
	return out.String()
}

// badCount begins what xfs_db says of a question that goes past the end of a group.
const badCount = "bad blockuse count "

// xfsDump reads the output of xfs_db.
type xfsDump struct {
	fs    string
	asked []int64 // blocks of the file system, in order
	// Per block that was asked about:
	facts []Fact
	known []bool
	// complaint is the first line that is no answer.
	complaint string
}

func newXFSDump(fs string, asked []int64) *xfsDump {
	return &xfsDump{fs: fs, asked: asked, facts: make([]Fact, len(asked)),
		known: make([]bool, len(asked))}
}

// line reads a line of an output without names.
func (x *xfsDump) line(s string, b *xfsInfo) {
	number, fact, ok := xfsFact(s, x.fs)
	if !ok {
		if x.complaint == "" && !strings.HasPrefix(s, badCount) {
			x.complaint = s
		}
		return
	}
	if i, asked := slices.BinarySearch(x.asked, b.bytesOf(number)/b.block); asked {
		x.facts[i], x.known[i] = fact, true
	}
}

// xfsNames reads the names of inodes from an output about blocks of theirs.
type xfsNames struct {
	blocks map[int64]uint64  // inodes of the blocks that are asked about
	names  map[uint64]string // of inodes
	forged bool              // a block has two answers, or there is something else

	complains bool // xfs_db finds errors in the file system
}

func (x *xfsNames) line(s string, b *xfsInfo) {
	number, fact, ok := xfsFact(s, "")
	block := b.bytesOf(number) / b.block
	inode, asked := x.blocks[block]
	if !ok || !asked {
		// The rest of a name, or an error in the file system, which was told before.
		x.forged = x.forged || !ok && !x.complains && !strings.HasPrefix(s, badCount)
		return
	}
	old, twice := x.names[inode]
	if fact.Inode != inode || twice && old != fact.Path {
		x.forged = true
		return
	}
	x.names[inode] = fact.Path
}

// xfsOffline asks xfs_db.
func (f *finder) xfsOffline(d node, fs string, pieces []piece) {
	b, err := readXFS(d.path)
	if err != nil {
		f.unknown(pieces, fs, err.Error())
		return
	}
	if f.prove {
		if doubt := f.doubt(d, func() (int64, error) {
			b, err = f.xfsClean(d.path)
			return b.size, err
		}); doubt != nil {
			f.unproven(fs, doubt)
			return
		}
	}
	pieces = f.headers(&b, fs, within(pieces, 0, b.size))
	x := newXFSDump(fs, blocksOf(pieces, b.block))
	err = f.lines(b.questions(x.asked, ""), func(s string) { x.line(s, &b) }, "xfs_db", "-r",
		d.path)
	switch {
	case err != nil:
	case f.prove && x.complaint != "":
		err = errors.New("xfs_db finds errors in it, run xfs_repair: " + x.complaint)
	case len(pieces) > 0 && !slices.Contains(x.known, true):
		err = errors.New("xfs_db cannot read the metadata")
		if x.complaint != "" {
			err = fmt.Errorf("%w: %s", err, x.complaint)
		}
	case !f.prove:
		f.xfsName(d, x, &b)
	}
	if f.prove && err != nil {
		f.unproven(fs, err)
		return
	}
	before := len(f.facts)
	for i, block := range x.asked {
		if x.known[i] {
			f.tell(within(pieces, block*b.block, (block+1)*b.block), x.facts[i])
		}
	}
	if f.prove {
		proven(f.facts[before:])
		return
	}
	why := "xfs_db does not tell"
	if err != nil {
		why = err.Error()
	}
	f.unknown(without(pieces, f.facts[before:]), fs, why)
	if state, err := f.xfsJournal(d.path); err != nil || state != xfsLogClean {
		f.notes = append(f.notes, d.path+": its journal was not replayed, so that the owners are "+
			"those of some time before; mount it once and ask again")
	}
}

// xfsName finds the names of the inodes that own blocks.
func (f *finder) xfsName(d node, x *xfsDump, b *xfsInfo) {
	n := xfsNames{blocks: map[int64]uint64{}, names: map[uint64]string{},
		complains: x.complaint != ""}
	seen := map[uint64]bool{}
	var blocks []int64
	for i, block := range x.asked {
		if inode := x.facts[i].Inode; inode != 0 && !seen[inode] {
			seen[inode], n.blocks[block] = true, inode
			blocks = append(blocks, block)
		}
	}
	if len(blocks) == 0 {
		return
	}
	err := f.lines(b.questions(blocks, " -n"), func(s string) { n.line(s, b) }, "xfs_db", "-r",
		d.path)
	switch {
	case err != nil:
		f.notes = append(f.notes, x.fs+": the names of files: "+err.Error())
	case n.forged:
		f.notes = append(f.notes, x.fs+": the names of files are not told, as some have line "+
			"breaks, which look like answers of xfs_db; mount it and ask again")
		return
	}
	for i := range x.facts {
		x.facts[i].Path = n.names[x.facts[i].Inode]
	}
}

// xfsLogClean is the state of a journal that holds nothing that was not written to its place.
const xfsLogClean = "<CLEAN>"

var xfsState = regexp.MustCompile(`^\s*log tail: .* state: (<\w+>)$`)

// xfsJournal returns the state of the journal.
func (f *finder) xfsJournal(path string) (state string, err error) {
	err = f.lines("", func(line string) {
		if m := xfsState.FindStringSubmatch(line); m != nil && state == "" {
			state = m[1]
		}
	}, "xfs_logprint", "-t", path)
	if err == nil && state == "" {
		err = errors.New("xfs_logprint does not tell the state of the journal")
	}
	return state, err
}

// xfsClean reads the superblock, and returns why what is on the disk is not to be believed.
func (f *finder) xfsClean(path string) (b xfsInfo, err error) {
	if b, err = readXFS(path); err != nil {
		return b, err
	}
	if b.making {
		return b, errors.New("mkfs.xfs has not finished it")
	}
	state, err := f.xfsJournal(path)
	if err == nil && state != xfsLogClean {
		err = errors.New("its journal was not replayed: mount it")
	}
	return b, err
}
