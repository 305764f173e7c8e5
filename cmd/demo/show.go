package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// show is the demonstration.
type show struct {
	stage
	o     options
	began time.Time

	dir, name string // scratch directory; name of the disk and of the set
	disk      string // the disk with bad sectors
	diskBytes int64
	bad       []int64
	census    *census
	device    string // /dev/ublkbN, while it runs
	byHand    bool   // bad sectors were written to directly
	mount     string
	docs      []document
	underFile int // bad sectors that lie under files
	remapped  map[int64]bool
	verified  int
	healed    int // writes healed by servers that have ended
	before    status
}

// status is the part of `status --json` that the demo reads.
type status struct {
	State   string `json:"state"`
	Remaps  int    `json:"remaps"`
	Pending int    `json:"pending"`
	Lost    int    `json:"lost"`
	Spare   struct {
		Total, Used, Free int
	} `json:"spare"`
	Errors struct {
		Read, Write int
	} `json:"errors"`
	Heals struct {
		Writes, Failed int
	} `json:"heals"`
	Breaker struct {
		State, Reason string
	} `json:"breaker"`
	ServerPID int `json:"server_pid"`
}

// remap is the part of `remap list --json` that the demo reads.
type remap struct {
	Block uint64  `json:"block"`
	Count uint64  `json:"count"`
	Spare *uint64 `json:"spare"`
}

func newShow(ctx context.Context, o options, out io.Writer) *show {
	return &show{
		stage: stage{ctx: ctx, out: out}, o: o, began: time.Now(),
		name: fmt.Sprintf("demo%d", os.Getpid()),
	}
}

// play runs the steps. An error means that it could not continue. Failed checks are only counted.
func (d *show) play() error {
	for _, part := range []func() error{
		d.breakDisk, d.create, d.start, d.touchByHand, d.makeFileSystem,
		d.copyTree, d.killServer, d.fillDisk, d.lookAtStatus, d.stop, d.startAgain, d.verify,
		d.stopAgain,
	} {
		if err := d.ctx.Err(); err != nil {
			return errors.New("interrupted")
		}
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

func (d *show) sectorSize() int64 { return int64(d.o.blockSize) }

// breakDisk makes the disk and proves that it has bad sectors.
func (d *show) breakDisk() error {
	d.step("A disk with bad sectors")
	var err error
	// This is not the system's temporary directory, which may be in memory and too small.
	base := "/var/tmp"
	if t := os.Getenv("TMPDIR"); t != "" {
		base = t
	}
	if d.dir, err = os.MkdirTemp(base, "ublk-remap-demo-"); err != nil {
		return err
	}
	d.later(func(context.Context) error { return os.RemoveAll(d.dir) })

	args := []string{"create", "-s", strconv.FormatUint(d.o.seed, 10), "-b",
		strconv.Itoa(d.o.blockSize), "-S", d.o.size}
	switch {
	case d.o.list != "":
		args = append(args, "-f", d.o.list)
	case d.o.percent != "":
		args = append(args, "-p", d.o.percent, "-r", strconv.Itoa(d.o.run))
	default:
		args = append(args, "-c", d.o.count, "-r", strconv.Itoa(d.o.run))
	}
	out, err := d.run(d.o.badloop, append(args, d.name, filepath.Join(d.dir, "disk.img"))...)
	if err != nil {
		return err
	}
	d.later(func(ctx context.Context) error {
		_, _, err := command(ctx, d.o.badloop, "remove", d.name)
		return err
	})
	d.disk = strings.TrimSpace(out)
	list, _, err := command(d.ctx, d.o.badloop, "list", d.name)
	if err != nil {
		return err
	}
	if d.bad, err = parseRuns(list); err != nil {
		return err
	}
	if d.diskBytes, err = sizeOf(d.disk); err != nil {
		return err
	}
	d.say("The kernel's device mapper fails every read and write of %d of its sectors of %d bytes.",
		len(d.bad), d.o.blockSize)
	return d.probe("before")
}

// probe reads and writes the disk itself at its bad sectors.
func (d *show) probe(when string) error {
	raw, err := openRaw(d.disk)
	if err != nil {
		return err
	}
	defer func() { _ = raw.close() }()
	n := int(d.sectorSize())
	some := sample(d.bad, maxProbes)
	var reads, writes int
	var last error
	for _, s := range some {
		if _, err := raw.read(s*d.sectorSize(), n); err != nil {
			reads++
			last = err
		}
		if err := raw.fill(s*d.sectorSize(), n, 0); err != nil {
			writes++
		}
	}
	d.check(reads == len(some) && writes == len(some),
		"tried %d of its bad sectors directly, %s ublk-remap: %d reads and %d writes failed%s",
		len(some), when, reads, writes, reason(last))
	if when != "before" {
		return nil
	}
	if good, found := d.goodSector(); found {
		_, err = raw.read(good*d.sectorSize(), n)
		d.check(err == nil, "the sector beside the first bad one (%d) can be read", good)
	}
	return nil
}

// goodSector returns the first good sector after a bad one.
func (d *show) goodSector() (int64, bool) {
	for i, s := range d.bad {
		if i+1 < len(d.bad) && d.bad[i+1] > s+1 {
			return s + 1, true
		}
	}
	return 0, false
}

// reason returns an error's errno in words, in brackets.
func reason(err error) string {
	var e syscall.Errno
	if errors.As(err, &e) {
		return fmt.Sprintf(" (%v)", e)
	}
	return ""
}

func (d *show) create() error {
	d.step("ublk-remap takes the disk")
	args := []string{"create", d.disk, "--name", d.name}
	if spare := spareFor(d.bad, d.sectorSize()); spare > d.diskBytes/100 {
		d.say("With so many bad sectors, the usual 1 %% of spare space would not do.")
		args = append(args, "--spare", fmt.Sprintf("%dMiB", (spare+1<<20-1)>>20))
	}
	if _, err := d.run(d.o.ublkRemap, args...); err != nil {
		return err
	}
	var dump dump
	if err := d.query(&dump, d.o.ublkRemap, "metadata", "dump", d.disk, "--json"); err != nil {
		return err
	}
	sb, err := dump.superblock()
	if err != nil {
		return err
	}
	if d.census, err = sb.sort(d.bad, d.sectorSize()); err != nil {
		return err
	}
	d.say("Of the bad sectors, %d lie where your data will be, %d in the spare region, %d under "+
		"ublk-remap's own records.",
		len(d.census.exported), d.census.spare, d.census.management)
	return nil
}

// startArgs returns the arguments that start a server. Where a single request meets many bad
// sectors, the server would also remap their neighbours to save time. The spares are meant for the
// bad sectors here.
func (d *show) startArgs() []string {
	args := []string{"start", d.disk}
	const request, usual = 512 << 10, 16 // start --help
	if int64(len(d.bad)) > d.diskBytes/request*usual/2 {
		args = append(args, "--max-bad", "1024", "--isolate-time", "1m")
	}
	return args
}

// serve starts the server and notes the path of the device.
func (d *show) serve() error {
	out, err := d.run(d.o.ublkRemap, d.startArgs()...)
	if err != nil {
		return err
	}
	d.device = strings.TrimSpace(out)
	d.later(func(ctx context.Context) error {
		if d.device == "" {
			return nil
		}
		_, _, err := command(ctx, d.o.ublkRemap, "stop", d.device)
		return err
	})
	st, err := os.Stat(d.device)
	if err != nil {
		return err
	}
	if st.Mode()&os.ModeDevice == 0 {
		return fmt.Errorf("%s is no device", d.device)
	}
	return nil
}

func (d *show) start() error {
	d.step("Its device goes live")
	return d.serve()
}

// touchByHand reads and writes bad sectors through the device before anything else has done so.
func (d *show) touchByHand() error {
	at := slices.Sorted(maps.Keys(d.census.exported))
	if len(at) == 0 {
		return nil
	}
	d.step("Bad sectors, seen through %s", d.device)
	raw, err := openRaw(d.device)
	if err != nil {
		return err
	}
	defer func() { _ = raw.close() }()
	n := int(d.sectorSize())

	first := at[len(at)/3]
	_, err = raw.read(first, n)
	d.check(err != nil, "sector %d was never written: reading it gives an error%s, no "+
		"invented data", first/d.sectorSize(), reason(err))
	var st status
	if err := d.query(&st, d.o.ublkRemap, "status", d.device, "--json"); err != nil {
		return err
	}
	d.check(st.Pending > 0, "it is noted as pending (%d so far): unreadable until written",
		st.Pending)

	for i, off := range slices.Compact([]int64{first, at[2*len(at)/3]}) {
		value := byte(0xA5 + i)
		err := raw.fill(off, n, value)
		if err != nil {
			d.check(false, "writing sector %d failed%s", off/d.sectorSize(), reason(err))
			continue
		}
		got, err := raw.read(off, n)
		d.check(err == nil && bytes.Count(got, []byte{value}) == n,
			"sector %d can be written, and reads back what was written%s", off/d.sectorSize(),
			reason(err))
		d.byHand = true
	}
	// File systems read the first page before they write a part of it.
	if err := raw.fill(0, 1<<20, 0); err != nil {
		d.check(false, "writing zeroes over the first MiB failed%s", reason(err))
	}
	return nil
}

func (d *show) makeFileSystem() error {
	d.step("A file system on it")
	// Everything is written at once, and not later in the background. The blocks have 4 KiB
	// whatever the size. Nothing is reserved for root.
	if _, err := d.run("mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-E",
		"lazy_itable_init=0,lazy_journal_init=0", d.device); err != nil {
		return err
	}
	d.mount = filepath.Join(d.dir, "mnt")
	if err := os.Mkdir(d.mount, 0o700); err != nil {
		return err
	}
	return d.mountIt()
}

func (d *show) mountIt(options ...string) error {
	if _, err := d.run("mount", slices.Concat([]string{"-t", "ext4"}, options,
		[]string{d.device, d.mount})...); err != nil {
		return err
	}
	d.later(func(ctx context.Context) error {
		if !mounted(d.mount) {
			return nil
		}
		_, _, err := command(ctx, "umount", d.mount)
		return err
	})
	return nil
}

// mounted reports whether something is mounted on dir.
func mounted(dir string) bool {
	var here, up syscall.Stat_t
	return syscall.Stat(dir, &here) == nil && syscall.Stat(filepath.Dir(dir), &up) == nil &&
		here.Dev != up.Dev
}

func (d *show) copyTree() error {
	d.step("A tree of files is copied to it")
	tree := d.o.tree
	if tree == "" {
		var st syscall.Statfs_t
		if err := syscall.Statfs(d.mount, &st); err != nil {
			return err
		}
		tree = filepath.Join(d.dir, "tree")
		if err := inventTree(tree, min(int64(st.Bavail)*st.Bsize/2, 1<<30), d.o.seed); err != nil {
			return err
		}
	}
	docs, err := takeStock(tree)
	if err != nil {
		return err
	}
	if len(docs) == 0 {
		return fmt.Errorf("there is no file in %s", tree)
	}
	d.docs = docs
	d.say("%d files, %s, each with its SHA-256 taken before.", len(docs), mib(bytesIn(docs)))
	if _, err := d.run("cp", "-a", tree+"/.", d.mount); err != nil {
		return err
	}
	_, err = d.run("sync", "-f", d.mount) // reports failed writes
	d.check(err == nil, "every write reached the disk")
	return nil
}

// killServer kills the server in the middle of a write, and starts another one.
func (d *show) killServer() error {
	d.step("The server is killed while a file is being written")
	var st status
	if err := d.query(&st, d.o.ublkRemap, "status", d.device, "--json"); err != nil {
		return err
	}
	if st.ServerPID <= 0 {
		return fmt.Errorf("status shows no server, but process %d", st.ServerPID)
	}
	d.healed += st.Heals.Writes
	begun := make(chan struct{})
	type result struct {
		doc document
		err error
	}
	written := make(chan result, 1)
	go func() {
		// Each write waits until it is on the disk.
		doc, err := write(filepath.Join(d.mount, "survivor"), os.O_SYNC,
			io.LimitReader(contents(d.o.seed, "survivor"), 6<<20),
			sync.OnceFunc(func() { close(begun) }))
		written <- result{doc, err}
	}()
	var r result
	select {
	case <-begun:
	case r = <-written:
		return fmt.Errorf("writing a file: %w", r.err)
	}
	d.say("$ kill -9 %d", st.ServerPID)
	if err := syscall.Kill(st.ServerPID, syscall.SIGKILL); err != nil {
		return err
	}
	out, err := d.run(d.o.ublkRemap, d.startArgs()...)
	if err != nil {
		// No server would answer the writer any more, and nothing could be unmounted. So the writer
		// gets its error.
		if _, _, serr := command(context.WithoutCancel(d.ctx), d.o.ublkRemap, "stop",
			d.device); serr != nil {
			return errors.Join(err, serr)
		}
		return err
	}
	d.check(strings.TrimSpace(out) == d.device, "another server has recovered %s, still mounted",
		d.device)
	r = <-written
	d.check(r.err == nil, "the write has waited, gone on and ended well: %s%s", mib(r.doc.size),
		reason(r.err))
	d.docs = append(d.docs, r.doc)
	return nil
}

// fillDisk writes to all free space, so that it hits nearly every bad sector.
func (d *show) fillDisk() error {
	d.step("One more file fills the disk, so that the remaining bad sectors are written over")
	// ext4 reserves blocks for emergencies. Those must be written here too.
	aside := filepath.Join("/sys/fs/ext4", filepath.Base(d.device), "reserved_clusters")
	d.say("$ echo 0 > %s", aside)
	if err := os.WriteFile(aside, []byte("0"), 0); err != nil {
		return err
	}
	doc, err := write(filepath.Join(d.mount, "filler"), 0, contents(d.o.seed, "filler"), func() {})
	d.check(err == nil, "wrote %s until there was no space left, with no other error%s",
		mib(doc.size), reason(err))
	d.docs = append(d.docs, doc)
	if _, err := d.run("sync", "-f", d.mount); err != nil {
		return err
	}
	under := map[int64]bool{}
	for _, doc := range d.docs {
		extents, err := extentsOf(filepath.Join(d.mount, doc.path))
		if err != nil {
			return err
		}
		for off := range d.census.exported {
			for _, x := range extents {
				if off >= x.start && off < x.start+x.length {
					under[off] = true
				}
			}
		}
	}
	d.underFile = len(under)
	d.say("By the file system's own map, %d bad sectors now lie under files.", d.underFile)
	d.check(d.underFile > 0 || len(d.census.exported) == 0, "the files do lie on bad sectors")

	list, err := d.remaps()
	if err != nil {
		return err
	}
	d.remapped = list
	missing := 0
	for off := range under {
		if !list[off] {
			missing++
		}
	}
	d.check(missing == 0, "every one of them lives in the spare region now (%d missing)", missing)
	return nil
}

// remaps returns the offsets of the sectors that live in the spare region.
func (d *show) remaps() (map[int64]bool, error) {
	var list []remap
	if err := d.query(&list, d.o.ublkRemap, "remap", "list", d.device, "--json"); err != nil {
		return nil, err
	}
	out := map[int64]bool{}
	for _, r := range list {
		if r.Spare == nil {
			continue
		}
		for i := range r.Count {
			out[int64(r.Block+i)*d.sectorSize()] = true
		}
	}
	return out, nil
}

func (d *show) lookAtStatus() error {
	d.step("What ublk-remap says about it")
	if _, err := d.run(d.o.ublkRemap, "status", d.device); err != nil {
		return err
	}
	if err := d.query(&d.before, d.o.ublkRemap, "status", d.device, "--json"); err != nil {
		return err
	}
	st := &d.before
	d.check(st.Heals.Failed == 0 && st.Lost == 0, "no write was refused, no block is lost (%d, %d)",
		st.Heals.Failed, st.Lost)
	d.healed += st.Heals.Writes
	d.check(d.healed > 0 || !d.byHand, "%d writes met bad sectors and were healed (%d by the "+
		"server that was killed)", d.healed, d.healed-st.Heals.Writes)
	d.check(st.Breaker.State == "closed", "the breaker is closed%s", bracketed(st.Breaker.Reason))
	name := filepath.Base(d.device)
	count, err := os.ReadFile(filepath.Join("/sys/fs/ext4", name, "errors_count"))
	if err != nil {
		return err
	}
	d.check(strings.TrimSpace(string(count)) == "0", "the file system has seen %s errors",
		strings.TrimSpace(string(count)))
	return nil
}

func bracketed(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}

// stop unmounts and stops, and checks what is left.
func (d *show) stop() error {
	d.step("The server stops")
	if _, err := d.run("umount", d.mount); err != nil {
		return err
	}
	if _, err := d.run(d.o.ublkRemap, "stop", d.device); err != nil {
		return err
	}
	_, err := os.Stat(d.device)
	d.check(errors.Is(err, os.ErrNotExist), "%s is gone", d.device)
	d.device = ""
	if err := d.probe("after"); err != nil {
		return err
	}
	_, err = d.run(d.o.ublkRemap, "metadata", "check", d.disk)
	d.check(err == nil, "its records on the disk are in order%s", reason(err))
	return nil
}

func (d *show) startAgain() error {
	d.step("It starts again, knowing nothing but what is on the disk")
	if err := d.serve(); err != nil {
		return err
	}
	list, err := d.remaps()
	if err != nil {
		return err
	}
	forgotten := 0
	for off := range d.remapped {
		if !list[off] {
			forgotten++
		}
	}
	d.check(forgotten == 0, "it remembers all of the %d remapped sectors (%d forgotten)",
		len(d.remapped), forgotten)
	d.remapped = list
	_, err = d.run("e2fsck", "-f", "-n", d.device)
	d.check(err == nil, "the file system is clean")
	return d.mountIt("-o", "ro")
}

func (d *show) verify() error {
	d.step("Every file is compared with its checksum")
	good, wrong := compare(d.mount, d.docs)
	d.verified = good
	for i, w := range wrong {
		if i == 10 {
			d.say("... and %d more", len(wrong)-i)
			break
		}
		d.say("%s", w)
	}
	d.check(len(wrong) == 0, "%d of %d files, %s, are what they were", good, len(d.docs),
		mib(bytesIn(d.docs)))
	return nil
}

func (d *show) stopAgain() error {
	d.step("All is taken down")
	if _, err := d.run("umount", d.mount); err != nil {
		return err
	}
	if _, err := d.run(d.o.ublkRemap, "stop", d.device); err != nil {
		return err
	}
	d.device = ""
	_, err := d.run(d.o.ublkRemap, "metadata", "check", d.disk)
	d.check(err == nil, "its records on the disk are in order")
	return nil
}

// lookAround prints the state of things when the demonstration could not continue.
func (d *show) lookAround() {
	if d.device == "" || d.ctx.Err() != nil {
		return
	}
	d.say("So things stand:")
	if _, err := d.run(d.o.ublkRemap, "status", d.device); err != nil {
		d.say("%v", err)
	}
}

// conclude prints the numbers and reports whether every check passed.
func (d *show) conclude() bool {
	hit, neighbours := 0, 0
	for off := range d.remapped {
		if _, bad := d.census.exported[off]; bad {
			hit++
		} else {
			neighbours++
		}
	}
	_, _ = fmt.Fprintf(d.out, `
In numbers
   bad sectors of the disk            %6d
   of them where data can be          %6d
   written to, and remapped           %6d   (%d of them under files)
   never written to                   %6d
   good neighbours remapped along     %6d
   spare units used                   %6d   of %d
   files verified after the restart   %6d   of %d, %s
   checks passed                      %6d
   checks failed                      %6d
`, len(d.bad), len(d.census.exported), hit, d.underFile, len(d.census.exported)-hit,
		neighbours, d.before.Spare.Used, d.before.Spare.Total, d.verified, len(d.docs),
		mib(bytesIn(d.docs)), d.passed, d.failed)
	took := time.Since(d.began).Round(time.Second)
	if d.failed > 0 {
		_, _ = fmt.Fprintf(d.out, "\nSomething is wrong: %d checks failed, in %v. See [FAILED] "+
			"above.\n", d.failed, took)
		return false
	}
	_, _ = fmt.Fprintf(d.out, "\n%d bad sectors were written over; no file was harmed, and no "+
		"restart forgot anything. That took %v.\n", hit, took)
	return true
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
