package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/control"
	"ublkremap/internal/host"
	"ublkremap/internal/readable"
	"ublkremap/internal/wholefile"
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
the UUIDs of all devices, and the remap table. The disk may be served meanwhile.
FILE appears whole or not at all, and must be on another disk; an older backup
of the same disk is replaced. With - the backup goes to standard output.`,
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
	if err := wholefile.Replace(file, ".ublk-remap-backup-*", b.Encode); err != nil {
		return fmt.Errorf("%s: %w", file, err)
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
	_, err = fmt.Fprintf(a.out, "%s: %s (%s) as of record %s, %s remaps, %s\n",
		readable.Text(out.File), readable.Text(out.Name), out.UUID, out.Position,
		readable.Number(out.Table.Mapped), readable.Bytes(out.Bytes))
	return err
}

// takeBackup asks the server of a disk, or reads the disk itself. It also returns the paths of the
// set's devices: a backup on one of them would be lost with them.
func takeBackup(ctx context.Context, a *app, path string, spares []string) (*metadata.Backup,
	[]string, error) {
	now := metadata.Seconds(time.Now())
	if r := a.servedBy(ctx, path); r != nil {
		client := control.NewClient(r.Name)
		bar := a.progress(r.Device + ": reading the table")
		bar.Unit("parts")
		b, err := metadata.Collect(now, func(cursor uint64) (metadata.Snapshot, error) {
			s, err := client.Snapshot(ctx, cursor)
			bar.Add(1)
			return metadata.Snapshot(*s), err
		})
		bar.End()
		if errors.Is(err, control.ErrNotFound) {
			err = fmt.Errorf("%s: %w: its server is of an older version; stop it first, or "+
				"upgrade it", path, exit.ErrUnsupported)
		}
		return b, append([]string{r.Device, r.Backing}, r.Spares...), err
	}
	path, err := diskOf(ctx, path)
	if err != nil {
		return nil, nil, err
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
	var w watch
	defer w.end()
	w.begin(a, "reading the metadata of "+path, 0)
	img, err := metadata.Load(w.of(s))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	b, err := img.Backup(now)
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return b, members, err
}

// servedBy returns the record of a disk that a living server serves, or nil.
func (a *app) servedBy(_ context.Context, path string) *control.Record {
	r, err := a.host().Lookup(path)
	if err != nil || !control.Owned(r.Name) {
		return nil
	}
	return r
}
