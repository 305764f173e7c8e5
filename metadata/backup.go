package metadata

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/google/uuid"
)

// Wire constants of the backup file, version 1; frozen. FORMAT.md draws it.
const (
	magicBackup   = 0x3442_504d_524b_4c42 // "BLKRMPB4"
	backupVersion = 1

	backupLive uint32 = 1 // flag: taken while the set was served
)

var (
	// ErrBackup is returned for a file that is neither a backup nor a dump, or that is damaged.
	ErrBackup = errors.New("not a whole backup of metadata")
	// ErrBackupStale is returned by PlanRestore if the metadata on the disk is in order and newer
	// than the backup.
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

	tip    link
	layout *Layout
	table  *Table // never changed
}

// newBackup checks that the table makes sense. Errors: ErrDamaged,
// ErrInvalidEntry.
func newBackup(sb *Superblock, tip link, t *Table, l *Layout) (*Backup, error) {
	if err := t.Validate(); err != nil {
		return nil, err
	}
	t.fit(l)
	b := &Backup{Superblock: sb, Position: tip.Position, Table: t.Counts(), tip: tip, layout: l,
		table: t}
	if b.Table.Entries > l.TableCapacity() {
		return nil, fmt.Errorf("%w: %d entries, a checkpoint holds %d", ErrInvalidEntry,
			b.Table.Entries, l.TableCapacity())
	}
	return b, nil
}

// backupReader makes a backup from a file, a dump or a server. It checks everything.
type backupReader struct {
	sb     *Superblock
	layout *Layout
	tip    link
	table  *Table
	stated entryBudget
	read   uint64 // entries
	// decoders are those of the version that the superblock has.
	decoders *decoders
}

// newBackupReader gets the superblock of the backing, and the newest record whose effect the
// table shows. Errors: ErrBackup, ErrUnsupported, ErrUnfinished.
func newBackupReader(superblock []byte, tip link) (*backupReader, error) {
	if tip.Epoch >= maxEpoch/2 || tip.Sequence >= maxEpoch/2 {
		return nil, fmt.Errorf("%w: position %s", ErrBackup, tip.Position)
	}
	sb, l, err := decodeLayout(superblock)
	if err != nil {
		return nil, err
	}
	return &backupReader{sb: sb, layout: l, tip: tip, table: NewTable(l),
		stated: newEntryBudget(l), decoders: decodersOf(superblock)}, nil
}

// entry adds a decoded entry. The error is ErrBackup.
func (r *backupReader) entry(e Entry, flags byte) error {
	if flags != 0 {
		return fmt.Errorf("%w: an entry with flags %#x", ErrBackup, flags)
	}
	return r.add(e)
}

func (r *backupReader) add(e Entry) error {
	r.read++
	if err := r.stated.add(&e); err != nil {
		return fmt.Errorf("%w: %w", ErrBackup, err)
	}
	if err := r.table.Apply(e); err != nil {
		return fmt.Errorf("%w: %w", ErrBackup, err)
	}
	return nil
}

// backup returns the backup once all entries are added. The error is ErrBackup.
func (r *backupReader) backup() (*Backup, error) {
	b, err := newBackup(r.sb, r.tip, r.table, r.layout)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBackup, err)
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
	b, err := newBackup(img.sb.clone(), img.tip, t, img.layout)
	if err != nil {
		return nil, err
	}
	b.Taken = now
	return b, nil
}

// Snapshot is a part of the table of a Committer at one moment.
type Snapshot struct {
	Superblock []byte `json:"superblock"` // 4096 bytes, as on the backing
	Epoch      uint64 `json:"epoch"`      // \
	Sequence   uint64 `json:"sequence"`   //  } of the newest record whose effect it shows
	Checksum   uint64 `json:"checksum"`   // /
	Entries    []byte `json:"entries"`    // 24 bytes each, as in a checkpoint of that version
	Next       uint64 `json:"next"`       // the cursor to go on from
	Done       bool   `json:"done"`
}

// snapshotEntries is how many entries a Snapshot has at most.
const snapshotEntries = 8 << 10

// Snapshot reads a part of the live table for Collect, from cursor on; the first cursor is
// 0. The rules for calling it are those of the other methods, and Results must have
// nothing left to return. It allocates. Errors: ErrNotOpen.
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

// collectTries is how often Collect tries.
const collectTries = 32

// Collect makes a backup of a live set from Snapshots, which ask gets from the
// set's Committer. If a record was written between two of them Collect starts over, so that
// the table is that of one moment. Errors: ErrChanging, ErrBackup (a Snapshot makes no
// sense), and those of ask.
func Collect(now uint32, ask func(cursor uint64) (Snapshot, error)) (*Backup, error) {
	for range collectTries {
		r, err := collect(ask)
		if err != nil {
			return nil, err
		}
		if r == nil {
			continue
		}
		b, err := r.backup()
		if err != nil {
			return nil, err
		}
		b.Taken, b.Live = now, true
		return b, nil
	}
	return nil, fmt.Errorf("%w: %d times while it was read", ErrChanging, collectTries)
}

// collect is one try of Collect. It returns nil if a record was written meanwhile.
func collect(ask func(cursor uint64) (Snapshot, error)) (r *backupReader, _ error) {
	for cursor, done := uint64(0), false; !done; {
		s, err := ask(cursor)
		if err != nil {
			return nil, err
		}
		at := link{Position{s.Epoch, s.Sequence}, s.Checksum}
		if r == nil {
			if r, err = newBackupReader(s.Superblock, at); err != nil {
				return nil, err
			}
		}
		if at != r.tip {
			return nil, nil
		}
		if len(s.Entries)%entrySize != 0 || len(s.Entries) == 0 && !s.Done {
			return nil, fmt.Errorf("%w: %d bytes of entries at %d", ErrBackup, len(s.Entries),
				cursor)
		}
		for b := s.Entries; len(b) > 0; b = b[entrySize:] {
			if err := r.entry(r.decoders.entry(b)); err != nil {
				return nil, err
			}
		}
		cursor, done = s.Next, s.Done
	}
	return r, nil
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
	h := backupHeader{set: b.Superblock.UUID, taken: b.Taken, live: b.Live, tip: b.tip}
	digest := newDigest()
	page := make([]byte, PageSize)
	// The header comes first, and its sum is over all that follows.
	err := b.pages(page, func(entries int) error {
		addSum(digest, getChecksum(page))
		if entries > 0 {
			h.pages++
			h.entries += uint64(entries)
		}
		return nil
	})
	if err != nil {
		return err
	}
	h.digest = digest.Sum64()
	h.encode(page)
	out := bufio.NewWriterSize(w, readChunk)
	if _, err := out.Write(page); err != nil {
		return err
	}
	if err := b.pages(page, func(int) error { _, err := out.Write(page); return err }); err != nil {
		return err
	}
	return out.Flush()
}

// pages encodes the superblock and then the entries, a page at a time. After each it calls f
// with the number of entries in it.
func (b *Backup) pages(page []byte, f func(entries int) error) error {
	b.Superblock.encode(page, 0)
	if err := f(0); err != nil {
		return err
	}
	id := checkpointID{b.tip.Epoch, b.tip.Sequence}
	index := uint32(0)
	waiting := make([]Entry, 0, entriesPerPage)
	full := func() error {
		encodePage(page, &b.Superblock.UUID, id, index, waiting)
		n := len(waiting)
		index, waiting = index+1, waiting[:0]
		return f(n)
	}
	err := b.table.each(func(e Entry) error {
		if waiting = append(waiting, e); len(waiting) == entriesPerPage {
			return full()
		}
		return nil
	})
	if err == nil && len(waiting) > 0 {
		err = full()
	}
	return err
}

// Bytes is how long the file is.
func (b *Backup) Bytes() int64 {
	return int64(2+(b.Table.Entries+entriesPerPage-1)/entriesPerPage) * PageSize
}

// backupHeader is the first page of a backup.
type backupHeader struct {
	set     uuid.UUID
	taken   uint32
	live    bool
	tip     link
	pages   uint32 // of entries
	entries uint64
	digest  uint64 // over the sums of all further pages
}

// Offsets in the first page of a backup; frozen.
const (
	backupPagesAt   = wordAt // of entries
	backupVersionAt = bodyAt
	backupFlagsAt   = 44
	backupTakenAt   = 48
	backupTipAt     = 56
	backupEntriesAt = backupTipAt + linkSize
	backupDigestAt  = backupEntriesAt + 8
)

func (h *backupHeader) encode(b []byte) {
	clear(b)
	putHead(b, magicBackup, h.pages, &h.set)
	le.PutUint32(b[backupVersionAt:], backupVersion)
	if h.live {
		le.PutUint32(b[backupFlagsAt:], backupLive)
	}
	le.PutUint64(b[backupTakenAt:], uint64(h.taken))
	putLink(b[backupTipAt:], h.tip)
	le.PutUint64(b[backupEntriesAt:], h.entries)
	le.PutUint64(b[backupDigestAt:], h.digest)
	seal(b)
}

// decodeBackupHeader reads a page. Errors: ErrBackup, ErrUnsupported.
func decodeBackupHeader(b []byte) (backupHeader, error) {
	format, version := le.Uint32(b[versionAt:]), le.Uint32(b[backupVersionAt:])
	switch {
	case !hasMagic(b, magicBackup):
		return backupHeader{}, errNoBackup
	case !sealed(b, magicBackup):
		return backupHeader{}, fmt.Errorf("%w: its first page is damaged", ErrBackup)
	case versions[format] == nil || version != backupVersion:
		return backupHeader{}, fmt.Errorf("%w: backup of format %d, version %d", ErrUnsupported,
			format, version)
	}
	return backupHeader{
		set: uuid.UUID(b[setAt:bodyAt]), pages: le.Uint32(b[backupPagesAt:]),
		taken: uint32(le.Uint64(b[backupTakenAt:])),
		live:  le.Uint32(b[backupFlagsAt:])&backupLive != 0,
		tip:   getLink(b[backupTipAt:]), entries: le.Uint64(b[backupEntriesAt:]),
		digest: le.Uint64(b[backupDigestAt:]),
	}, nil
}

var errNoBackup = fmt.Errorf("%w: it does not begin like one", ErrBackup)

// ReadBackup reads a backup or a dump to its end. A file that begins like a JSON document is read
// as a dump. Errors: those of DecodeBackup and DecodeDump.
func ReadBackup(r io.Reader) (*Backup, error) {
	in := bufio.NewReaderSize(r, readChunk)
	for {
		b, err := in.Peek(1)
		switch {
		case err != nil || b[0] != '{' && !strings.ContainsRune(" \t\r\n", rune(b[0])):
			return DecodeBackup(in)
		case b[0] == '{':
			return DecodeDump(in)
		}
		_, _ = in.Discard(1) // it is there
	}
}

// DecodeBackup reads a backup to its end. The memory that it uses depends on the bytes that it
// reads, not on the numbers in the header. Errors: ErrBackup, ErrUnsupported, ErrUnfinished, and
// those of the reader.
func DecodeBackup(r io.Reader) (*Backup, error) {
	page := make([]byte, PageSize)
	if err := readPage(r, page, "its first page does"); err != nil {
		return nil, err
	}
	h, err := decodeBackupHeader(page)
	if err != nil {
		return nil, err
	}
	if err := readPage(r, page, "its superblock"); err != nil {
		return nil, err
	}
	to, err := newBackupReader(page, h.tip)
	if err != nil {
		return nil, err
	}
	if to.sb.UUID != h.set {
		return nil, fmt.Errorf("%w: it is of set %s, its superblock of set %s", ErrBackup, h.set,
			to.sb.UUID)
	}
	digest := newDigest()
	addSum(digest, getChecksum(page))
	for i := range h.pages {
		if err := readPage(r, page, fmt.Sprintf("page %d of %d", i+1, h.pages)); err != nil {
			return nil, err
		}
		n, sum, ok := decodePage(page, &h.set, checkpointID{h.tip.Epoch, h.tip.Sequence}, i)
		if !ok {
			return nil, fmt.Errorf("%w: page %d of %d is damaged", ErrBackup, i+1, h.pages)
		}
		addSum(digest, sum)
		decode := decodersOf(page).pageEntry
		for j := range n {
			if err := to.entry(decode(page, j)); err != nil {
				return nil, err
			}
		}
	}
	if digest.Sum64() != h.digest || to.read != h.entries {
		return nil, fmt.Errorf("%w: its pages are not those that its header was written over",
			ErrBackup)
	}
	if err := atEnd(r); err != nil {
		return nil, err
	}
	b, err := to.backup()
	if err != nil {
		return nil, err
	}
	b.Taken, b.Live = h.taken, h.live
	return b, nil
}

// readPage reads the next page. If the file ends here, the error names the missing part by what.
func readPage(r io.Reader, page []byte, what string) error {
	_, err := io.ReadFull(r, page)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends before %s", ErrBackup, what)
	}
	return err
}

// atEnd fails if anything is left to read.
func atEnd(r io.Reader) error {
	var b [1]byte
	n, err := io.ReadFull(r, b[:])
	switch {
	case n == 0 && errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("%w: there is something behind its end", ErrBackup)
}

// BackupOf reads the first page of a file and says of which set it is a backup,
// or was meant to be one. The error is ErrBackup if it is none.
func BackupOf(r io.Reader) (uuid.UUID, error) {
	page := make([]byte, PageSize)
	if _, err := io.ReadFull(r, page); err != nil || !hasMagic(page, magicBackup) {
		return uuid.Nil, errNoBackup
	}
	return uuid.UUID(page[setAt:bodyAt]), nil
}
