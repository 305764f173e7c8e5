package metadata

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/google/uuid"
)

// Wire constants of the backup file, version 1; frozen. FORMAT.md draws it.
const (
	magicBackup   = 0x3442_504d_524b_4c42 // "BLKRMPB4"
	backupVersion = 1

	backupLive uint32 = 1 // flag: taken while the set was served
)

var (
	// ErrBackup is returned for a file that is no backup, or a damaged one.
	ErrBackup = errors.New("not a whole backup of metadata")
	// ErrBackupStale is returned by PlanRestore for a backup that is older
	// than the metadata of a disk that needs none.
	ErrBackupStale = errors.New("backup is out of date")
	// ErrChanging is returned by Collect when the table changed too often to be
	// read at one moment.
	ErrChanging = errors.New("the remap table keeps changing")
)

// Backup is a copy of all of a set's metadata as of one moment.
type Backup struct {
	Superblock *Superblock `json:"superblock"` // the backing's
	Position   Position    `json:"position"`   // of the newest record then
	Taken      uint32      `json:"taken"`      // seconds since 1970
	Live       bool        `json:"live"`       // the set was served then
	Table      TableCounts `json:"table"`

	tip     link
	layout  *Layout
	entries []Entry // the fewest that state the table
}

// newBackup checks that the table makes sense. Errors: ErrDamaged,
// ErrInvalidEntry.
func newBackup(sb *Superblock, tip link, taken uint32, live bool, t *Table, l *Layout) (*Backup,
	error) {
	if err := t.Validate(); err != nil {
		return nil, err
	}
	t.fit(l)
	b := &Backup{Superblock: sb, Position: tip.Position, Taken: taken, Live: live,
		Table: t.Counts(), tip: tip, layout: l}
	if b.Table.Entries > l.TableCapacity() {
		return nil, fmt.Errorf("%w: %d entries, a checkpoint holds %d", ErrInvalidEntry,
			b.Table.Entries, l.TableCapacity())
	}
	b.entries = make([]Entry, 0, b.Table.Entries)
	var page [entriesPerPage]Entry
	for cursor, done := uint64(0), false; !done; {
		var n int
		n, cursor, done = t.Entries(cursor, page[:])
		b.entries = append(b.entries, page[:n]...)
	}
	return b, nil
}

// Backup makes a backup of a set that is not being served. now is in seconds
// since 1970. Errors: ErrDamaged.
func (img *Image) Backup(now uint32) (*Backup, error) {
	t, err := img.Table()
	if err != nil {
		return nil, err
	}
	return newBackup(img.sb.clone(), img.tip, now, false, t, img.layout)
}

// Snapshot is a part of the table of a Committer at one moment.
type Snapshot struct {
	Superblock []byte `json:"superblock"` // 4096 bytes, as on the backing
	Epoch      uint64 `json:"epoch"`      // \
	Sequence   uint64 `json:"sequence"`   //  } of the newest record whose effect it shows
	Checksum   uint64 `json:"checksum"`   // /
	Entries    []byte `json:"entries"`    // 24 bytes each, as in a checkpoint
	Next       uint64 `json:"next"`       // the cursor to go on from
	Done       bool   `json:"done"`
}

// snapshotEntries is how many entries a Snapshot has at most.
const snapshotEntries = 8 << 10

// Snapshot reads a part of the live table, for Collect: from cursor on, 0 at
// first. It is to be called as the other methods are, and when Results has
// nothing more to give. It allocates. Errors: ErrNotOpen.
func (c *Committer) Snapshot(cursor uint64) (Snapshot, error) {
	if c.phase != phaseOpen || c.collected != c.durable {
		return Snapshot{}, ErrNotOpen
	}
	s := Snapshot{
		Superblock: make([]byte, PageSize), Epoch: c.durable.Epoch, Sequence: c.durable.Sequence,
		Checksum: c.durable.Hash,
		Entries:  make([]byte, snapshotEntries*entrySize),
	}
	c.sb.now.encode(s.Superblock, 0)
	dst := make([]Entry, snapshotEntries)
	n := 0
	n, s.Next, s.Done = c.src.Entries(cursor, dst)
	for i := range n {
		putEntry(s.Entries[i*entrySize:], &dst[i])
	}
	s.Entries = s.Entries[:n*entrySize]
	return s, nil
}

// collectTries is how often Collect begins again.
const collectTries = 32

// Collect puts a backup of a live set together from Snapshots, which ask gets
// from the set's Committer. If a record was written between two of them it
// begins again, so that the table is that of one moment. Errors: ErrChanging,
// ErrBackup (what was got makes no sense), and those of ask.
func Collect(now uint32, ask func(cursor uint64) (Snapshot, error)) (*Backup, error) {
next:
	for range collectTries {
		var tip link
		var sb *Superblock
		var l *Layout
		var t *Table
		for cursor, done := uint64(0), false; !done; {
			s, err := ask(cursor)
			if err != nil {
				return nil, err
			}
			at := link{Position{s.Epoch, s.Sequence}, s.Checksum}
			if t == nil {
				if sb, l, err = decodeLayout(s.Superblock); err != nil {
					return nil, err
				}
				tip, t = at, NewTable(l)
			}
			if at != tip {
				continue next
			}
			if len(s.Entries)%entrySize != 0 || len(s.Entries) == 0 && !s.Done {
				return nil, fmt.Errorf("%w: %d bytes of entries at %d", ErrBackup, len(s.Entries),
					cursor)
			}
			for b := s.Entries; len(b) > 0; b = b[entrySize:] {
				if err := applyEntry(t, b); err != nil {
					return nil, err
				}
			}
			cursor, done = s.Next, s.Done
		}
		return newBackup(sb, tip, now, true, t, l)
	}
	return nil, fmt.Errorf("%w: %d times while it was read", ErrChanging, collectTries)
}

func applyEntry(t *Table, b []byte) error {
	e, flags := getEntry(b)
	if flags != 0 {
		return fmt.Errorf("%w: an entry with flags %#x", ErrBackup, flags)
	}
	if err := t.Apply(e); err != nil {
		return fmt.Errorf("%w: %w", ErrBackup, err)
	}
	return nil
}

// decodeLayout decodes the superblock of a backing. Errors: ErrBackup,
// ErrUnsupported, ErrUnfinished.
func decodeLayout(b []byte) (*Superblock, *Layout, error) {
	if len(b) != PageSize {
		return nil, nil, fmt.Errorf("%w: a superblock of %d bytes", ErrBackup, len(b))
	}
	sb, err := decodeSuperblock(b)
	switch {
	case errors.Is(err, ErrUnsupported):
		return nil, nil, err
	case err != nil:
		return nil, nil, fmt.Errorf("%w: its superblock: %w", ErrBackup, err)
	case sb.DeviceIndex != 0:
		return nil, nil, fmt.Errorf("%w: its superblock is that of device %d", ErrBackup,
			sb.DeviceIndex)
	}
	if err := sb.Unfinished(); err != nil {
		return nil, nil, err
	}
	l, err := newLayout(sb)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: its %w", ErrBackup, err)
	}
	if sb.Epoch >= maxEpoch/2 || sb.Generation >= maxEpoch/2 {
		return nil, nil, fmt.Errorf("%w: epoch %d, generation %d", ErrBackup, sb.Epoch,
			sb.Generation)
	}
	return sb, l, nil
}

// Encode writes the backup as a file: header, superblock, pages of entries,
// 4096 bytes each.
func (b *Backup) Encode(w io.Writer) error {
	set := &b.Superblock.UUID
	id := checkpointID{b.tip.Epoch, b.tip.Sequence}
	page := make([]byte, PageSize)
	pages := func(f func() error) error {
		b.Superblock.encode(page, 0)
		if err := f(); err != nil {
			return err
		}
		for i := 0; i*entriesPerPage < len(b.entries); i++ {
			encodePage(page, set, id, uint32(i),
				b.entries[i*entriesPerPage:min(len(b.entries), (i+1)*entriesPerPage)])
			if err := f(); err != nil {
				return err
			}
		}
		return nil
	}
	digest := newDigest()
	// The header comes first, and its sum is over all that follows.
	_ = pages(func() error { addSum(digest, le.Uint64(page[checksumOffset:])); return nil })
	flags := uint32(0)
	if b.Live {
		flags |= backupLive
	}
	clear(page)
	le.PutUint64(page, magicBackup)
	le.PutUint32(page[8:], Version)
	le.PutUint32(page[12:], uint32((len(b.entries)+entriesPerPage-1)/entriesPerPage))
	copy(page[24:40], set[:])
	le.PutUint32(page[40:], backupVersion)
	le.PutUint32(page[44:], flags)
	le.PutUint64(page[48:], uint64(b.Taken))
	le.PutUint64(page[56:], b.tip.Epoch)
	le.PutUint64(page[64:], b.tip.Sequence)
	le.PutUint64(page[72:], b.tip.Hash)
	le.PutUint64(page[80:], uint64(len(b.entries)))
	le.PutUint64(page[88:], digest.Sum64())
	seal(page)
	out := bufio.NewWriterSize(w, readChunk)
	if _, err := out.Write(page); err != nil {
		return err
	}
	if err := pages(func() error { _, err := out.Write(page); return err }); err != nil {
		return err
	}
	return out.Flush()
}

// Bytes is how long the file is.
func (b *Backup) Bytes() int64 {
	return int64(2+(len(b.entries)+entriesPerPage-1)/entriesPerPage) * PageSize
}

// DecodeBackup reads a backup to its end. What it allocates follows what it
// reads, not what a header says. Errors: ErrBackup, ErrUnsupported, and those
// of the reader.
func DecodeBackup(r io.Reader) (*Backup, error) {
	page := make([]byte, PageSize)
	read := func(what string) error {
		_, err := io.ReadFull(r, page)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%w: it ends before %s", ErrBackup, what)
		}
		return err
	}
	if err := read("its first page does"); err != nil {
		return nil, err
	}
	switch {
	case le.Uint64(page) != magicBackup:
		return nil, fmt.Errorf("%w: it does not begin like one", ErrBackup)
	case !sealed(page, magicBackup):
		return nil, fmt.Errorf("%w: its first page is damaged", ErrBackup)
	case le.Uint32(page[8:]) != Version || le.Uint32(page[40:]) != backupVersion:
		return nil, fmt.Errorf("%w: backup of format %d, version %d", ErrUnsupported,
			le.Uint32(page[8:]), le.Uint32(page[40:]))
	}
	count, set := le.Uint32(page[12:]), [16]byte(page[24:40])
	live, taken := le.Uint32(page[44:])&backupLive != 0, uint32(le.Uint64(page[48:]))
	tip := link{Position{le.Uint64(page[56:]), le.Uint64(page[64:])}, le.Uint64(page[72:])}
	entries, want := le.Uint64(page[80:]), le.Uint64(page[88:])
	if tip.Epoch >= maxEpoch/2 || tip.Sequence >= maxEpoch/2 {
		return nil, fmt.Errorf("%w: position %s", ErrBackup, tip.Position)
	}
	if err := read("its superblock"); err != nil {
		return nil, err
	}
	sb, l, err := decodeLayout(page)
	if err != nil {
		return nil, err
	}
	if sb.UUID != set {
		return nil, fmt.Errorf("%w: it is of set %x, its superblock of set %s", ErrBackup, set,
			sb.UUID)
	}
	digest := newDigest()
	addSum(digest, le.Uint64(page[checksumOffset:]))
	t := NewTable(l)
	id, seen := checkpointID{tip.Epoch, tip.Sequence}, uint64(0)
	for i := range count {
		if err := read(fmt.Sprintf("page %d of %d", i+1, count)); err != nil {
			return nil, err
		}
		n, sum, ok := decodePage(page, &sb.UUID, id, i)
		if !ok {
			return nil, fmt.Errorf("%w: page %d of %d is damaged", ErrBackup, i+1, count)
		}
		addSum(digest, sum)
		seen += uint64(n)
		for j := range n {
			if err := applyEntry(t, pageEntry(page, j)); err != nil {
				return nil, err
			}
		}
	}
	if digest.Sum64() != want || seen != entries {
		return nil, fmt.Errorf("%w: its pages are not those that its header was written over",
			ErrBackup)
	}
	if n, err := io.ReadFull(r, page[:1]); n != 0 || !errors.Is(err, io.EOF) {
		if err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%w: there is something behind its end", ErrBackup)
	}
	b, err := newBackup(sb, tip, taken, live, t, l)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBackup, err)
	}
	return b, nil
}

// BackupOf reads the first page of a file and says of which set it is a backup,
// or was meant to be one. The error is ErrBackup if it is none.
func BackupOf(r io.Reader) (uuid.UUID, error) {
	page := make([]byte, PageSize)
	if _, err := io.ReadFull(r, page); err != nil || le.Uint64(page) != magicBackup {
		return uuid.Nil, fmt.Errorf("%w: it does not begin like one", ErrBackup)
	}
	return uuid.UUID(page[24:40]), nil
}
