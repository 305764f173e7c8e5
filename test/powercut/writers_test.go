package powercut

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"ublkremap/test/rig"
)

// marker records in the logs what was acknowledged, by marks with ascending numbers.
type marker struct {
	mu    sync.Mutex
	disks []*disk
	seq   int64
}

// set sets a mark, on every log, and returns its number. What was durable
// before the call is durable for a cut at the mark or later.
func (m *marker) set(prefix string) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.setLocked(prefix)
}

func (m *marker) setLocked(prefix string) (int64, error) {
	m.seq++
	for _, d := range m.disks {
		if err := errors.Join(d.stamp(m.seq),
			d.log.Mark(fmt.Sprintf("%s%d", prefix, m.seq))); err != nil {
			return 0, err
		}
	}
	return m.seq, nil
}

// op is one thing that a writer did to one of its objects.
type op struct {
	version int   // of the object, from 1
	ack     int64 // the mark that was set when it was durable; 0: it never was
	length  int64 // of a log's record
}

// kinds of objects
type objectKind int

const (
	replaced objectKind = iota // a file written whole to another name and renamed over the old one
	appended                   // a file that grows by records
	// a file overwritten in place, block by block, with O_DIRECT and O_DSYNC
	slotted
	renamed // a file that is renamed to and fro
	numKinds
)

const (
	slotSize = 4096
	slots    = 24
	maxFile  = 48 << 10
	maxLog   = 300 << 10 // bytes; a log that is longer is left alone
)

// object is a file, or a slot of one, and its history.
type object struct {
	writer, id int
	kind       objectKind
	ops        []op
	slot       [slots][]op
	size       int64
}

func (o *object) name(version int) string {
	base := filepath.Join(fmt.Sprintf("w%d", o.writer), fmt.Sprintf("o%d", o.id))
	if o.kind == renamed && version%2 == 0 {
		return base + ".b"
	}
	return base
}

// writer works on its own directory of the file system.
type writer struct {
	n       int
	root    string
	rng     *rand.Rand
	mark    *marker
	objects []*object
}

// run does ops and stops at the first error.
func (w *writer) run(ops int, acked *atomic.Int64) error {
	for range ops {
		var o *object
		if len(w.objects) < 3*int(numKinds) {
			o = &object{writer: w.n, id: len(w.objects),
				kind: objectKind(len(w.objects) % int(numKinds))}
			w.objects = append(w.objects, o)
		} else {
			o = w.objects[w.rng.IntN(len(w.objects))]
		}
		if err := w.step(o); err != nil {
			return fmt.Errorf("writer %d, %s: %w", w.n, o.name(1), err)
		}
		acked.Add(1)
	}
	return nil
}

func (w *writer) step(o *object) error {
	if o.kind == slotted {
		return w.overwrite(o)
	}
	if o.kind == appended && o.size > maxLog {
		return nil
	}
	v := len(o.ops) + 1
	o.ops = append(o.ops, op{version: v})
	now := &o.ops[len(o.ops)-1]
	var err error
	switch {
	case o.kind == appended:
		now.length = 100 + w.rng.Int64N(12<<10)
		o.size += now.length
		err = w.write(o.name(v), os.O_APPEND, body(o, v, now.length))
		if err == nil && v == 1 {
			err = syncDir(filepath.Dir(filepath.Join(w.root, o.name(v))))
		}
	case o.kind == renamed && v > 1:
		if err = os.Rename(filepath.Join(w.root, o.name(v-1)),
			filepath.Join(w.root, o.name(v))); err == nil {
			err = syncDir(filepath.Dir(filepath.Join(w.root, o.name(v))))
		}
	default:
		// Whole contents under another name, durable; then the rename, durable.
		tmp := o.name(v) + ".tmp"
		if err = w.write(tmp, os.O_TRUNC, body(o, v, 64+w.rng.Int64N(maxFile))); err != nil {
			break
		}
		if err = os.Rename(filepath.Join(w.root, tmp),
			filepath.Join(w.root, o.name(v))); err == nil {
			err = syncDir(filepath.Dir(filepath.Join(w.root, o.name(v))))
		}
	}
	if err != nil {
		return err
	}
	now.ack, err = w.mark.set("")
	return err
}

func (w *writer) write(name string, flag int, data []byte) error {
	f, err := os.OpenFile(filepath.Join(w.root, name), os.O_WRONLY|os.O_CREATE|flag, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// overwrite writes one slot. Direct and O_DSYNC: what reaches the disk is this
// one write, often with FUA.
func (w *writer) overwrite(o *object) error {
	path := filepath.Join(w.root, o.name(1))
	if len(o.ops) == 0 {
		o.ops = append(o.ops, op{version: 1})
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, slots*slotSize), f.Sync(), f.Close(),
			syncDir(filepath.Dir(path)))
		if err != nil {
			return err
		}
		o.ops[0].ack, err = w.mark.set("")
		return err
	}
	n := w.rng.IntN(slots)
	o.slot[n] = append(o.slot[n], op{version: len(o.slot[n]) + 1})
	now := &o.slot[n][len(o.slot[n])-1]
	b := rig.Aligned(slotSize)
	fillSlot(b, o, n, now.version)
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_DIRECT|unix.O_DSYNC|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	k, err := unix.Pwrite(fd, b, int64(n)*slotSize)
	if err == nil && k != len(b) {
		err = fmt.Errorf("short write of %d bytes", k)
	}
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return err
	}
	now.ack, err = w.mark.set("")
	return err
}

// body is the contents of a version of a file, or a record: a line that says
// what it is, then words that follow from it.
func body(o *object, version int, n int64) []byte {
	head := fmt.Sprintf("w%d o%d v%d n%d\n", o.writer, o.id, version, n)
	b := make([]byte, max(n, int64(len(head))))
	words(b, head)
	copy(b, head)
	return b
}

func words(b []byte, seed string) {
	h := fnv.New64a()
	_, _ = h.Write([]byte(seed))
	rng := rand.New(rand.NewPCG(h.Sum64(), 0))
	for i := 0; i+8 <= len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], rng.Uint64())
	}
}

// parse reads the line that a body begins with.
func parse(b []byte) (writer, id, version int, n int64, err error) {
	line, _, ok := bytes.Cut(b[:min(len(b), 64)], []byte("\n"))
	if !ok {
		return 0, 0, 0, 0, errors.New("it has no head")
	}
	_, err = fmt.Sscanf(string(line), "w%d o%d v%d n%d", &writer, &id, &version, &n)
	return writer, id, version, n, err
}

const sector = 512

// fillSlot makes every sector tell which slot and version it is of.
func fillSlot(b []byte, o *object, slot, version int) {
	for i := 0; i < len(b); i += sector {
		s := b[i : i+sector]
		words(s, fmt.Sprintf("w%d o%d slot %d sector %d version %d", o.writer, o.id, slot, i,
			version))
		binary.LittleEndian.PutUint64(s, uint64(version))
	}
}
