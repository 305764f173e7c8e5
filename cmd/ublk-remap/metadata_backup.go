package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/internal/host"
	"ublkremap/metadata"
)

// backedUp is what backup prints.
type backedUp struct {
	File     string                `json:"file"`
	Name     string                `json:"name"`
	UUID     string                `json:"uuid"`
	Devices  []metadata.DeviceInfo `json:"devices"`
	Position metadata.Position     `json:"position"`
	Table    metadata.TableCounts  `json:"table"`
	Bytes    int64                 `json:"bytes"`
	Live     bool                  `json:"live"` // the set was being served
	Taken    string                `json:"taken"`
}

func metadataBackupCommand(a *app) *cobra.Command {
	var spares []string
	cmd := &cobra.Command{
		Use:   "backup BACKING|DEV FILE|-",
		Short: "Save the metadata to a file, also of a disk that is being served",
		Long: `Save all metadata of a disk as of one moment to one file: the superblock with
the UUIDs of all devices, and the remap table. The disk may be served meanwhile. FILE
appears whole or not at all, and must be on another disk; an older backup of the same
disk is replaced. With - the backup goes to standard output.`,
		Args: arguments(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[1] == "-" && a.json {
				return fmt.Errorf("--json: %w: standard output gets the backup", exit.ErrUsage)
			}
			return backup(cmd.Context(), a, args[0], args[1], spares)
		},
	}
	spareFlag(cmd, &spares)
	a.jsonFlag(cmd)
	return cmd
}

func backup(ctx context.Context, a *app, path, file string, spares []string) error {
	b, members, err := takeBackup(ctx, a, path, spares)
	if err != nil {
		return err
	}
	if file == "-" {
		return b.Encode(a.out)
	}
	if file, err = filepath.Abs(file); err != nil {
		return err
	}
	if err := placeForBackup(file, b, members); err != nil {
		return err
	}
	if err := writeWhole(file, b.Encode); err != nil {
		return err
	}
	sb := b.Superblock
	out := backedUp{
		File: file, Name: sb.Name, UUID: sb.UUID.String(), Devices: sb.Devices,
		Position: b.Position, Table: b.Table, Bytes: b.Bytes(),
		Live: b.Live, Taken: time.Unix(int64(b.Taken), 0).UTC().Format(time.RFC3339),
	}
	if a.json {
		return a.printJSON(out)
	}
	_, err = fmt.Fprintf(a.out, "%s: %s (%s) as of record %s, %s remaps, %s\n", clean(out.File),
		clean(out.Name), out.UUID, out.Position,
		numText(out.Table.Mapped), sizeText(out.Bytes))
	return err
}

// takeBackup asks the server of a disk, or reads the disk itself. It also
// returns the paths of the set's devices, where a backup would be lost with them.
func takeBackup(ctx context.Context, a *app, path string, spares []string) (*metadata.Backup,
	[]string, error) {
	now := metadata.Seconds(time.Now())
	if r := a.servedBy(ctx, path); r != nil {
		client := control.NewClient(r.Name)
		b, err := metadata.Collect(now, func(cursor uint64) (metadata.Snapshot, error) {
			s, err := client.Snapshot(ctx, cursor)
			return metadata.Snapshot(*s), err
		})
		if errors.Is(err, control.ErrNotFound) {
			err = fmt.Errorf("%s: %w: its server is of an older version; stop it first, or "+
				"upgrade it", path, exit.ErrUnsupported)
		}
		return b, append([]string{r.Device, r.Backing}, r.Spares...), err
	}
	s, err := host.OpenToRead(ctx, path, spares, false)
	if err != nil {
		return nil, nil, err
	}
	defer s.Close()
	var members []string
	for _, d := range s.Devices {
		members = append(members, d.Path())
	}
	img, err := metadata.Load(s.Metadata())
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	b, err := img.Backup(now)
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return b, members, err
}

// servedBy returns the record of a disk that a living server has, or nil.
func (a *app) servedBy(_ context.Context, path string) *control.Record {
	r, err := a.host().Lookup(path)
	if err != nil || !control.Owned(r.Name) {
		return nil
	}
	return r
}

// placeForBackup refuses a file that would be on the disk itself, and one that
// exists and is no backup of the set.
func placeForBackup(file string, b *metadata.Backup, members []string) error {
	for _, m := range members {
		if blockdev.SameDisk(m, file) {
			return fmt.Errorf("%s: %w: it is a device of the set; choose a file on another disk",
				file, exit.ErrRefused)
		}
	}
	var dir unix.Stat_t
	if err := unix.Stat(filepath.Dir(file), &dir); err != nil {
		return fmt.Errorf("%s: %w", filepath.Dir(file), err)
	}
	on := map[uint64]bool{}
	for _, m := range members {
		var st unix.Stat_t
		if unix.Stat(m, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
			on[st.Rdev] = true
		}
	}
	if restsOn(dir.Dev, on, 0) {
		return fmt.Errorf("%s: %w: it would be on the very disk that it is the backup of; choose "+
			"a file on another disk", file, exit.ErrRefused)
	}
	st, err := os.Lstat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !st.Mode().IsRegular():
		return fmt.Errorf("%s: %w: it is not a regular file; choose another name", file,
			exit.ErrRefused)
	case st.Size() == 0:
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	// A damaged backup may be replaced as well, if its first page names the set.
	set, err := metadata.BackupOf(f)
	if err != nil {
		return fmt.Errorf("%s: %w: there is a file that is no backup; choose another name", file,
			exit.ErrRefused)
	}
	if set != b.Superblock.UUID {
		return fmt.Errorf("%s: %w: there is a backup of another set, %s; choose another name", file,
			exit.ErrRefused, set)
	}
	return nil
}

// restsOn reports whether a block device is one of those, a partition of one, or
// made of one by device-mapper, md or a loop device.
func restsOn(dev uint64, on map[uint64]bool, depth int) bool {
	if on[dev] {
		return true
	}
	if depth > 16 {
		return false
	}
	dir, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(dev),
		unix.Minor(dev)))
	if err != nil {
		return false // no block device: tmpfs, a network
	}
	number := func(path string) (uint64, bool) {
		b, err := os.ReadFile(path)
		var major, minor uint32
		if err == nil {
			_, err = fmt.Sscanf(string(b), "%d:%d", &major, &minor)
		}
		return unix.Mkdev(major, minor), err == nil
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		if whole, ok := number(filepath.Join(filepath.Dir(dir), "dev")); ok &&
			restsOn(whole, on, depth+1) {
			return true
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "loop/backing_file")); err == nil {
		var st unix.Stat_t
		if unix.Stat(string(b[:max(0, len(b)-1)]), &st) == nil && restsOn(st.Dev, on, depth+1) {
			return true
		}
	}
	below, _ := os.ReadDir(filepath.Join(dir, "slaves"))
	for _, e := range below {
		if d, ok := number(filepath.Join(dir, "slaves", e.Name(), "dev")); ok &&
			restsOn(d, on, depth+1) {
			return true
		}
	}
	return false
}

// writeWhole writes a file that appears under its name only once it is whole and
// durable. Nobody but its owner can read it.
func writeWhole(path string, write func(io.Writer) error) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".ublk-remap-backup-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	err = write(tmp)
	if err == nil {
		err = tmp.Sync()
	}
	if err := errors.Join(err, tmp.Close()); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
