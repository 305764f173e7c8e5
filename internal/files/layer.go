package files

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/mountinfo"
)

// maxDepth is how many devices may lie on top of each other.
const maxDepth = 16

// layer tells whose pieces of a device are: of what is mounted from it, of the devices on top of
// it, or of what its signature says.
func (f *finder) layer(d node, pieces []piece, depth int) {
	switch {
	case len(pieces) == 0:
		return
	case depth == maxDepth:
		f.unknown(pieces, "", fmt.Sprintf("more than %d devices lie on top of each other",
			maxDepth))
		return
	case f.over():
		f.unknown(pieces, "", cutOff)
		return
	}
	f.way = append(f.way, d.path)
	defer func() { f.way = f.way[:len(f.way)-1] }()
	before, partial := len(f.facts), true
	switch {
	case len(f.mountsOf(d.dev)) > 0:
		f.mounted(d, pieces)
	case swapsOn(d.dev):
		f.unknown(pieces, "swap on "+d.path, "swap space that is in use")
	case f.serves(d.dev, pieces):
	default:
		partial = f.stacked(d, pieces, depth)
	}
	if rest := without(pieces, f.facts[before:]); len(rest) > 0 {
		f.alone(d, rest, partial)
	}
}

// serves tells of a device on which a mounted xfs has its journal, or the data of some files. Only
// the options of the mount say so. It reports whether there is one.
func (f *finder) serves(dev uint64, pieces []piece) bool {
	for i := range f.mounts {
		m := &f.mounts[i]
		if m.Type != "xfs" {
			continue
		}
		for option := range strings.SplitSeq(m.Options, ",") {
			name, path, _ := strings.Cut(option, "=")
			if name != "logdev" && name != "rtdev" || !sameDevice(path, dev) {
				continue
			}
			fact := Fact{Owner: OwnerMetadata, Filesystem: m.said(m.Source), What: "journal"}
			if name == "rtdev" {
				fact.Owner, fact.What = OwnerUnknown,
					"in the realtime part of xfs, which is not followed"
			}
			f.tell(pieces, fact)
			return true
		}
	}
	return false
}

const cutOff = "the search took too long and was ended"

// stacked tells whose the pieces are that devices on top of a device show. It reports whether there
// are such devices.
func (f *finder) stacked(d node, pieces []piece, depth int) bool {
	parts, loops, holders := partsOf(d.dev), loopsOver(d.dev), holdersOf(d.dev)
	for _, p := range parts {
		f.layer(p.node, above(pieces, p.start, p.start+p.size, 0), depth+1)
	}
	for _, l := range loops {
		f.layer(l.node, above(pieces, l.start, l.start+l.size, 0), depth+1)
	}
	for _, h := range holders {
		f.holder(d, h, pieces, depth)
	}
	return len(parts)+len(loops)+len(holders) > 0
}

// above returns the pieces in a run of bytes of a device, as the device above sees them: that run
// is at a byte of it.
func above(pieces []piece, start, end, at int64) []piece {
	in := within(pieces, start, end)
	for i := range in {
		in[i].at += at - start
	}
	return in
}

// holder follows pieces into a device that a driver has made.
func (f *finder) holder(d, h node, pieces []piece, depth int) {
	before := len(f.facts)
	name := text(sysDir(h.dev), "dm/name")
	if name == "" {
		f.unknown(pieces, "", fmt.Sprintf("in use by %s, whose layout is not followed", h.path))
		return
	}
	targets, err := f.dmTable(name)
	if err != nil {
		f.unknown(pieces, "", fmt.Sprintf("in use by %s: %v", h.path, err))
		return
	}
	for _, t := range targets {
		switch {
		case !t.uses(d.dev):
		case t.follow == nil:
			f.unknown(without(pieces, f.facts[before:]), "", fmt.Sprintf(
				"in use by %s, whose target %q is not followed", h.path, t.kind))
		default:
			f.layer(h, t.follow(d.dev, pieces), depth+1)
		}
	}
}

// alone tells of pieces that nothing on top of a device shows. partial says that something shows
// others, or may.
func (f *finder) alone(d node, pieces []piece, partial bool) {
	dev, err := os.Open(d.path)
	if err == nil {
		defer dev.Close()
		err = f.refresh()
	}
	if err != nil {
		f.unknown(pieces, "", err.Error())
		return
	}
	found := blockdev.Detect(dev, d.size)
	kind := func(k blockdev.Kind) *blockdev.Signature {
		for i := range found.Signatures {
			if found.Signatures[i].Kind == k {
				return &found.Signatures[i]
			}
		}
		return nil
	}
	switch fs := kind(blockdev.KindFilesystem); {
	case kind(blockdev.KindPartitions) != nil:
		f.table(d, pieces)
	case kind(blockdev.KindCrypto) != nil:
		f.encrypted(d, kind(blockdev.KindCrypto).Name+" on "+d.path, pieces, partial)
	case kind(blockdev.KindVolume) != nil:
		f.unknown(pieces, kind(blockdev.KindVolume).Name+" on "+d.path,
			"in no active logical volume: metadata of the volume manager, free space of the "+
				"group, or a volume that is not active")
	case kind(blockdev.KindRAID) != nil:
		f.unknown(pieces, kind(blockdev.KindRAID).Name+" on "+d.path, "member of an array")
	case kind(blockdev.KindSwap) != nil:
		f.unknown(pieces, "swap on "+d.path, "swap space that is not in use")
	case fs != nil && !partial:
		before := len(f.facts)
		f.offline(d, fs.Name, pieces)
		f.unknown(without(pieces, f.facts[before:]), "", "behind the end of what is on "+d.path)
	case partial:
		f.unknown(pieces, "", "behind the end of what is on "+d.path)
	case len(found.Unread) > 0:
		why := fmt.Sprintf("places of it that would tell what is on it cannot be read, the first "+
			"at byte %d", found.Unread[0])
		f.unknown(pieces, "", d.path+": "+why)
		if f.prove {
			f.unproven(d.path, errors.New(why))
		}
	default:
		f.unknown(pieces, "", "nothing that is known is on "+d.path)
	}
}

// encrypted tells of places of an encrypted volume that nothing on top of it shows. open says that
// something shows others: its data begins behind its header.
func (f *finder) encrypted(d node, fs string, pieces []piece, open bool) {
	if !open {
		f.unknown(pieces, fs, "an encrypted volume that is not open: open it and ask again")
		return
	}
	header := d.size
	for _, h := range holdersOf(d.dev) {
		targets, _ := f.dmTable(text(sysDir(h.dev), "dm/name"))
		for _, t := range targets {
			if t.kind == "crypt" && t.uses(d.dev) {
				header = min(header, t.from)
			}
		}
	}
	if header == d.size {
		header = 0 // what is open is no part of it
	}
	before := len(f.facts)
	f.tell(within(pieces, 0, header), Fact{Owner: OwnerMetadata, Filesystem: fs,
		What: "header of an encrypted volume"})
	f.unknown(without(pieces, f.facts[before:]), fs, "in no part of it that is open")
}

// table tells of places outside of all partitions. A boot loader may lie between the table and the
// first partition, so such places do not count as free.
func (f *finder) table(d node, pieces []piece) {
	fs := "partition table on " + d.path
	before := len(f.facts)
	const gpt = 34 // sectors: protective MBR, header, 128 entries of 128 bytes
	f.tell(within(pieces, 0, gpt*512), Fact{Owner: OwnerMetadata, Filesystem: fs,
		What: "partition table"})
	f.unknown(without(pieces, f.facts[before:]), fs, "outside of all partitions")
}

// swapsOn reports whether a device is swap space that is in use.
func swapsOn(dev uint64) bool {
	b, _ := os.ReadFile("/proc/swaps")
	for i, line := range strings.Split(string(b), "\n") {
		if fields := strings.Fields(line); i > 0 && len(fields) > 1 && fields[1] == "partition" &&
			sameDevice(mountinfo.Unescape(fields[0]), dev) {
			return true
		}
	}
	return false
}

// offline asks a file system that is not mounted.
func (f *finder) offline(d node, kind string, pieces []piece) {
	fs := fmt.Sprintf("%s on %s, not mounted", kind, d.path)
	switch kind {
	case "ext2", "ext3", "ext4":
		f.extOffline(d, fs, pieces)
	case "xfs":
		f.xfsOffline(d, fs, pieces)
	case "jbd":
		f.tell(pieces, Fact{Owner: OwnerMetadata, Filesystem: "jbd on " + d.path,
			What: "journal of an ext4 on another device"})
	default:
		f.unknown(pieces, fs, "it is not mounted: mount it, read-only is enough, and ask again")
		if f.prove {
			f.unproven(fs, errors.New("mount it, not read-only"))
		}
	}
}

// mounted asks a file system that is mounted.
func (f *finder) mounted(d node, pieces []piece) {
	all := f.mountsOf(d.dev)
	fs := all[0].said(d.path)
	var root int
	var clone bool
	var err error
	var m *mount
	for _, m = range all {
		if root, clone, err = openMount(m); err == nil {
			break
		}
	}
	if err != nil {
		f.unknown(pieces, fs, err.Error())
		return
	}
	defer func() { _ = unix.Close(root) }()
	v := &volume{finder: f, node: d, mount: m, fs: m.said(d.path), root: root, clone: clone}
	switch m.Type {
	case "ext2", "ext3", "ext4":
		v.ext(pieces)
	case "xfs":
		v.xfs(pieces)
	case "btrfs":
		v.btrfs(pieces)
	default:
		v.other(pieces)
	}
}
