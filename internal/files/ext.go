package files

import (
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
		if doubt = f.hold(d); doubt == nil {
			i, doubt = readExt(d.path) // as it is now that nobody changes it
		}
		switch {
		case doubt != nil:
		case !i.clean:
			doubt = errors.New("it is not clean: run e2fsck, or mount it")
		case i.shared:
			doubt = errors.New("it allocates clusters of blocks (bigalloc): mount it")
		}
	}
	before := len(f.facts)
	dump := &extDump{finder: f, info: i, pieces: pieces, fs: fs}
	if err := f.lines("", dump.line, "dumpe2fs", d.path); err != nil {
		f.facts = f.facts[:before]
		f.unknown(pieces, fs, err.Error())
		return
	}
	switch {
	case doubt != nil:
		f.unproven(fs, doubt)
	case f.prove:
		f.proven(f.facts[before:])
	}
	f.inodes(i, d, fs, "/", without(pieces, f.facts[before:]))
}

// extDump reads the output of dumpe2fs.
type extDump struct {
	*finder
	info   extInfo
	pieces []piece
	fs     string
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
	if strings.HasPrefix(s, "Group ") {
		e.group = true
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
func (f *finder) inodes(i extInfo, d node, fs, point string, pieces []piece) {
	if len(pieces) == 0 {
		return
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
	facts, err := f.describe(d.path, slices.Compact(inodes), fs, point)
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
				f.unknown(in, fs, nobodys)
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

// extSpecial are the inodes that are no files (Documentation/filesystems/ext4/special_inodes.rst).
var extSpecial = map[uint64]string{1: "list of bad blocks", 3: "user quota", 4: "group quota",
	5: "boot loader", 7: "reserved group descriptors", 8: "journal", 9: "snapshots"}

var statHead = regexp.MustCompile(`^Inode: (\d+)\s+Type: (\S+)`)

// describe returns what inodes are: their kinds and their names.
func (f *finder) describe(path string, inodes []uint64, fs, point string) (map[uint64]Fact, error) {
	facts := map[uint64]Fact{}
	var words, stats []string
	for _, ino := range inodes {
		fact := Fact{Owner: OwnerFile, Inode: ino, Filesystem: fs}
		if what := extSpecial[ino]; what != "" {
			fact.Owner, fact.What = OwnerMetadata, what
		} else {
			words = append(words, strconv.FormatUint(ino, 10))
			stats = append(stats, fmt.Sprintf("stat <%d>", ino))
		}
		facts[ino] = fact
	}
	if len(words) == 0 {
		return facts, nil
	}
	names := commands("ncheck", words, func(command string) error {
		return f.lines("", func(line string) {
			number, name, ok := strings.Cut(line, "\t")
			ino, err := strconv.ParseUint(number, 10, 32)
			if fact, asked := facts[ino]; ok && err == nil && asked && fact.Path == "" {
				fact.Path = rooted(point, name)
				facts[ino] = fact
			}
		}, "debugfs", "-R", command, path)
	})
	var now uint64
	kinds := f.lines(strings.Join(stats, "\n")+"\n", func(line string) {
		if m := statHead.FindStringSubmatch(strings.TrimPrefix(line, "debugfs:  ")); m != nil {
			now, _ = strconv.ParseUint(m[1], 10, 64)
			fact := facts[now]
			switch m[2] {
			case "directory":
				fact.Owner, fact.What = OwnerMetadata, "directory"
			case "symlink":
				fact.What = "symbolic link"
			}
			facts[now] = fact
		}
	}, "debugfs", "-f", "-", path)
	if f.cut {
		return facts, errors.New(cutOff)
	}
	return facts, errors.Join(names, kinds)
}
