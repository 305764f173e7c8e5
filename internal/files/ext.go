package files

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// extInfo is what is read from the superblock of ext2, ext3 or ext4
// (Documentation/filesystems/ext4/super.rst).
type extInfo struct {
	block  int64 // bytes
	size   int64 // bytes
	replay bool  // the journal must be replayed
	shared bool  // it allocates clusters of several blocks (bigalloc)
	clean  bool  // it was unmounted in order, and has found no errors in itself
	mmp    int64 // block of the multiple mount protection, or 0

	orphans, projectQuota uint64 // inodes, or 0
}

// superblock reads the superblock of a file system: so many bytes at this place of the device.
func superblock(path string, at, size int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, size)
	if _, err := io.ReadFull(io.NewSectionReader(f, at, size), b); err != nil {
		return nil, fmt.Errorf("%s: its superblock: %w", path, err)
	}
	return b, nil
}

// readExt reads the superblock.
func readExt(path string) (i extInfo, err error) {
	b, err := superblock(path, 1024, 1024)
	if err != nil {
		return i, err
	}
	le := binary.LittleEndian
	if le.Uint16(b[0x38:]) != 0xef53 || le.Uint32(b[0x18:]) > 6 {
		return i, fmt.Errorf("%s: no superblock of ext4", path)
	}
	i.block = 1024 << le.Uint32(b[0x18:])
	blocks := uint64(le.Uint32(b[4:]))
	if le.Uint32(b[0x60:])&0x80 != 0 { // 64bit
		blocks |= uint64(le.Uint32(b[0x150:])) << 32
	}
	if blocks > 1<<62/uint64(i.block) {
		return i, fmt.Errorf("%s: a superblock that makes no sense", path)
	}
	i.size = int64(blocks) * i.block
	if le.Uint32(b[0x60:])&0x100 != 0 {
		i.mmp = int64(min(le.Uint64(b[0x168:]), blocks))
	}
	i.projectQuota, i.orphans = uint64(le.Uint32(b[0x26c:])), uint64(le.Uint32(b[0x280:]))
	i.shared = le.Uint32(b[0x64:])&0x200 != 0
	i.clean = le.Uint16(b[0x3a:])&0x3 == 0x1 && le.Uint32(b[0x60:])&0x4 == 0
	i.replay = le.Uint32(b[0x60:])&0x4 != 0
	return i, nil
}

// extOffline asks dumpe2fs for free space and metadata, and debugfs for the rest.
func (f *finder) extOffline(d node, fs string, pieces []piece) {
	i, err := readExt(d.path)
	if err != nil {
		f.unknown(pieces, fs, err.Error())
		return
	}
	if i.replay {
		f.notes = append(f.notes, d.path+": its journal was not replayed, so that the owners are "+
			"those of some time before; mount it once, or run e2fsck, and ask again")
	}
	pieces = within(pieces, 0, i.size)
	var doubt error
	if f.prove {
		doubt = f.doubt(d, func() (int64, error) {
			i, err = readExt(d.path)
			switch {
			case err != nil:
			case !i.clean:
				err = errors.New("it is not clean: run e2fsck, or mount it")
			case i.shared:
				err = errors.New("it allocates clusters of blocks (bigalloc): mount it")
			}
			return i.size, err
		})
	}
	before := len(f.facts)
	dump := &extDump{finder: f, info: i, pieces: pieces, fs: fs, before: before}
	nobody := nobodys
	err = f.lines("", dump.line, "dumpe2fs", d.path)
	if err != nil {
		// It says where metadata is, but what its bitmaps say is not to be believed.
		f.facts = slices.DeleteFunc(f.facts, func(p placed) bool {
			return p.fact.Owner == OwnerFree && p.fact.Filesystem == fs
		})
		nobody = "free, or in use by no file with a name: " + err.Error()
		doubt = cmp.Or(doubt, err)
	}
	switch {
	case f.prove && doubt != nil:
		f.unproven(fs, doubt)
	case f.prove:
		proven(f.facts[before:])
	default:
		f.inodes(i, d, fs, "/", nobody, without(pieces, f.facts[before:]))
	}
}

// extDump reads the output of dumpe2fs.
type extDump struct {
	*finder
	info   extInfo
	pieces []piece
	fs     string
	before int  // how many facts there were
	group  bool // the groups have begun
}

var (
	dumpPlace = regexp.MustCompile(`^  (?:(Primary|Backup) superblock|(Reserved GDT blocks|` +
		`Block bitmap|Inode bitmap|Inode table)) at (\d+)(?:-(\d+))?`)
	dumpDescriptors = regexp.MustCompile(`(?:^ |,) Group [Dd]escriptors? at (\d+)(?:-(\d+))?`)
)

// dumpNames are the names of what dumpe2fs tells, as GETFSMAP's are in metadataNames.
var dumpNames = map[string]string{"Primary": "superblock", "Backup": "backup of the superblock",
	"Reserved GDT blocks": "reserved group descriptors", "Block bitmap": "block bitmap",
	"Inode bitmap": "inode bitmap", "Inode table": "inode table"}

// line reads one line.
func (e *extDump) line(s string) {
	if strings.HasPrefix(s, "Group 0:") {
		// The label, and where it was mounted, are printed before the groups, as they are. With
		// line breaks they can look like groups. What is said before the last "Group 0" is none.
		e.group, e.facts = true, e.facts[:e.before]
	}
	if !e.group {
		return
	}
	if free, ok := strings.CutPrefix(s, "  Free blocks: "); ok {
		for run := range strings.SplitSeq(free, ", ") {
			first, last, ranged := strings.Cut(run, "-")
			if !ranged {
				last = first
			}
			e.blocks(first, last, Fact{Owner: OwnerFree, What: "free space"})
		}
		return
	}
	if m := dumpPlace.FindStringSubmatch(s); m != nil {
		e.blocks(m[3], m[4], Fact{Owner: OwnerMetadata, What: dumpNames[m[1]+m[2]]})
	}
	if m := dumpDescriptors.FindStringSubmatch(s); m != nil {
		e.blocks(m[1], m[2], Fact{Owner: OwnerMetadata, What: "group descriptors"})
	}
}

// blocks notes what a run of blocks of the file system is.
func (e *extDump) blocks(first, last string, fact Fact) {
	from, err := strconv.ParseInt(first, 10, 48)
	to := from
	if err == nil && last != "" {
		to, err = strconv.ParseInt(last, 10, 48)
	}
	if err != nil {
		return
	}
	fact.Filesystem = e.fs
	e.tell(within(e.pieces, from*e.info.block, (to+1)*e.info.block), fact)
}

// inodes asks debugfs which inodes use blocks that are neither free nor known metadata, and what
// these are called. point is put before their paths.
func (f *finder) inodes(i extInfo, d node, fs, point, nobody string, pieces []piece) {
	if len(pieces) == 0 {
		return
	}
	if i.mmp != 0 {
		before := len(f.facts)
		f.tell(within(pieces, i.mmp*i.block, (i.mmp+1)*i.block), Fact{Owner: OwnerMetadata,
			Filesystem: fs, What: "multiple mount protection"})
		pieces = without(pieces, f.facts[before:])
	}
	owners, err := f.icheck(d.path, blocksOf(pieces, i.block))
	if err != nil {
		f.unknown(pieces, fs, err.Error())
		return
	}
	var inodes []uint64
	for _, ino := range owners {
		inodes = append(inodes, ino)
	}
	slices.Sort(inodes)
	facts, err := f.describe(&i, d.path, slices.Compact(inodes), fs, point)
	if err != nil {
		f.notes = append(f.notes, fs+": "+err.Error())
	}
	for _, p := range pieces {
		for at := p.at; at < p.at+p.size; {
			block := at / i.block
			end := min(p.at+p.size, (block+1)*i.block)
			in := []piece{{p.top + at - p.at, at, end - at}}
			at = end
			ino, known := owners[block]
			switch fact, told := facts[ino]; {
			case !known && block == 0 && i.block > 1024:
				f.tell(in, Fact{Owner: OwnerMetadata, Filesystem: fs, What: "superblock"})
			case !known && block == 0:
				f.tell(in, Fact{Owner: OwnerMetadata, Filesystem: fs, What: "boot block"})
			case !known:
				f.unknown(in, fs, nobody)
			case !told:
				f.tell(in, Fact{Owner: OwnerFile, Inode: ino, Filesystem: fs,
					What: "it was not found out what this inode is"})
			default:
				f.tell(in, fact)
			}
		}
	}
}

// nobodys says what is known of a block that is in use and that no inode with a name uses.
const nobodys = "in use, and not by an inode with a name: held ready for a file, or a deleted " +
	"file that is open or was when the machine stopped, or an error in the file system"

// blocksOf lists the blocks of a file system that pieces are in.
func blocksOf(pieces []piece, block int64) (all []int64) {
	for _, p := range pieces {
		for b := p.at / block; b*block < p.at+p.size; b++ {
			if n := len(all); n == 0 || all[n-1] != b {
				all = append(all, b)
			}
		}
	}
	return all
}

// maxArgument is how long the command of debugfs may be: the kernel takes 128 KiB for one argument.
const maxArgument = 120_000

// commands puts numbers behind a command of debugfs, as many as fit, and hands each such command to
// run.
func commands(command string, numbers []string, run func(string) error) error {
	for len(numbers) > 0 {
		var line strings.Builder
		line.WriteString(command)
		n := 0
		for n < len(numbers) && line.Len()+1+len(numbers[n]) <= maxArgument {
			line.WriteString(" " + numbers[n])
			n++
		}
		if err := run(line.String()); err != nil {
			return err
		}
		numbers = numbers[n:]
	}
	return nil
}

// icheck returns the inodes of blocks.
func (f *finder) icheck(path string, blocks []int64) (map[int64]uint64, error) {
	var words []string
	for _, b := range blocks {
		words = append(words, strconv.FormatInt(b, 10))
	}
	owners := map[int64]uint64{}
	err := commands("icheck", words, func(command string) error {
		begun := false // debugfs reports no failure by its exit code
		err := f.lines("", func(line string) {
			begun = begun || strings.HasPrefix(line, "Block\tInode")
			block, ino, ok := strings.Cut(line, "\t")
			b, err := strconv.ParseInt(block, 10, 48)
			n, err2 := strconv.ParseUint(ino, 10, 32)
			if ok && err == nil && err2 == nil {
				owners[b] = n
			}
		}, "debugfs", "-R", command, path)
		if err == nil && !begun {
			err = errors.New("debugfs cannot read the inodes")
		}
		return err
	})
	return owners, err
}

// special says what an inode is that is no file.
func (i *extInfo) special(inode uint64) string {
	switch inode {
	case 0:
	case i.orphans:
		return "list of orphaned inodes"
	case i.projectQuota:
		return "project quota"
	}
	return extSpecial[inode]
}

// extSpecial are the inodes that are no files (Documentation/filesystems/ext4/special_inodes.rst).
var extSpecial = map[uint64]string{1: "list of bad blocks", 3: "user quota", 4: "group quota",
	5: "boot loader", 7: "reserved group descriptors", 8: "journal", 9: "snapshots"}

var statHead = regexp.MustCompile(`^Inode: (\d+)\s+Type: (\S+)`)

// describe returns what inodes are: their kinds and their names.
func (f *finder) describe(i *extInfo, path string, inodes []uint64, fs, point string) (
	map[uint64]Fact, error) {
	facts := map[uint64]Fact{}
	var words []string
	for _, ino := range inodes {
		fact := Fact{Owner: OwnerFile, Inode: ino, Filesystem: fs}
		if what := i.special(ino); what != "" {
			fact.Owner, fact.What = OwnerMetadata, what
		} else {
			words = append(words, strconv.FormatUint(ino, 10))
		}
		facts[ino] = fact
	}
	if len(words) == 0 {
		return facts, nil
	}
	paths, err := f.ncheck(path, words)
	kinds, err2 := f.kinds(path, words, paths)
	for ino, k := range kinds {
		fact := facts[ino]
		switch k.kind {
		case "directory":
			fact.Owner, fact.What = OwnerMetadata, "directory"
		case "symlink":
			fact.What = "symbolic link"
		}
		switch name := paths[ino]; {
		case name != "" && k.named:
			fact.Path = rooted(point, name)
		case name != "" && fact.What == "":
			fact.What = "debugfs cannot tell its name"
		}
		facts[ino] = fact
	}
	if f.cut {
		return facts, errors.New(cutOff)
	}
	return facts, errors.Join(err, err2)
}

// ncheck returns a name of each inode, as debugfs says. A name with a line break can make it say
// anything, so that each has to be looked up.
func (f *finder) ncheck(path string, words []string) (map[uint64]string, error) {
	paths := map[uint64]string{}
	err := commands("ncheck", words, func(command string) error {
		return f.lines("", func(line string) {
			number, name, ok := strings.Cut(line, "\t")
			ino, err := strconv.ParseUint(number, 10, 32)
			if ok && err == nil && paths[ino] == "" {
				// Of what lies in the root it says //name, which it does not find itself.
				paths[ino] = "/" + strings.TrimLeft(name, "/")
			}
		}, "debugfs", "-R", command, path)
	})
	return paths, err
}

// extKind is what debugfs says of an inode.
type extKind struct {
	kind  string
	named bool // its name leads to it
}

// kinds returns the kinds of inodes, and looks up their names. What debugfs says of an inode holds
// text of others, such as the target of a symbolic link. With line breaks it can look like the next
// question and its answer. Then the questions are not those that were asked.
func (f *finder) kinds(path string, words []string, paths map[uint64]string) (map[uint64]extKind,
	error) {
	var ask []string
	for _, w := range words {
		ask = append(ask, "<"+w+">")
		ino, _ := strconv.ParseUint(w, 10, 64)
		if name := paths[ino]; name != "" && quotable(name) {
			ask = append(ask, `"`+strings.ReplaceAll(name, `"`, `""`)+`"`)
		}
	}
	r := statReader{ask: ask, kinds: map[uint64]extKind{}}
	err := f.lines("stat "+strings.Join(ask, "\nstat ")+"\n", r.line, "debugfs", "-f", "-", path)
	if err == nil && r.forged {
		return nil, errors.New("the names and kinds of files are not told, as some have line " +
			"breaks, which look like answers of debugfs; mount it and ask again")
	}
	return r.kinds, err
}

// statReader reads what debugfs says to questions about inodes: the question, then the answer.
type statReader struct {
	ask    []string // in order
	next   int
	about  uint64 // the inode that was asked about by its number
	open   bool   // the last question has no answer yet
	forged bool
	kinds  map[uint64]extKind
}

func (r *statReader) line(line string) {
	if q, ok := strings.CutPrefix(line, "debugfs: stat "); ok {
		if r.next == len(r.ask) || q != r.ask[r.next] {
			r.forged = true
			return
		}
		r.next, r.open = r.next+1, true
		return
	}
	m := statHead.FindStringSubmatch(line)
	if m == nil || !r.open {
		return
	}
	r.open = false
	ino, _ := strconv.ParseUint(m[1], 10, 64)
	switch q := r.ask[r.next-1]; {
	case q == "<"+m[1]+">":
		r.about, r.kinds[ino] = ino, extKind{kind: m[2]}
	case q[0] == '"' && ino == r.about:
		r.kinds[ino] = extKind{kind: m[2], named: true}
	}
}

// quotable reports whether a name can be given to debugfs, whose lines have 8 KiB at most.
func quotable(name string) bool {
	return len(name) < 4000 && !strings.ContainsFunc(name, func(r rune) bool {
		return r < ' ' || r == 0x7f
	})
}
