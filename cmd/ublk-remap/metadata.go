package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/cmd/ublk-remap/internal/set"
	"ublkremap/cmd/ublk-remap/internal/shell"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/metadata"
)

func metadataCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "metadata", Short: "The metadata of a disk", RunE: group}
	cmd.AddCommand(metadataCheckCommand(a), metadataDumpCommand(a), metadataRepairCommand(a),
		metadataBackupCommand(a), metadataRestoreCommand(a))
	return cmd
}

// spareFlag gives a verb its --spare-device.
func spareFlag(cmd *cobra.Command, spares *[]string) {
	cmd.Flags().StringArrayVar(spares, "spare-device", nil,
		"path of a spare device; those not named are looked for")
}

// offline opens a set for reading. With shared it may be live; else it must not
// be, for records that are being written look damaged.
func offline(ctx context.Context, path string, spares []string, shared bool) (*set.Set, error) {
	s, err := set.Open(ctx, path, spares, blockdev.Options{ReadOnly: true, Shared: shared})
	if errors.Is(err, metadata.ErrDamaged) || errors.Is(err, metadata.ErrUnsupported) || shared &&
		len(spares) == 0 && errors.Is(err, metadata.ErrNotFound) {
		// No superblock to go by, or a spare device is missing: let the backing
		// alone show what it has.
		d, openErr := blockdev.Open(ctx, path, blockdev.Options{ReadOnly: true, Shared: shared})
		if openErr != nil {
			return nil, openErr
		}
		return &set.Set{Devices: []*blockdev.Device{d}}, nil
	}
	return s, served(ctx, path, err)
}

// served turns the error of opening a disk that is being served into one that
// says so.
func served(ctx context.Context, path string, err error) error {
	if !errors.Is(err, blockdev.ErrBusy) {
		return err
	}
	if sb, idErr := set.Identify(ctx, path); idErr == nil && control.Owned(sb.Name) {
		return fmt.Errorf("%s: %w: it is being served as %q; stop it first (%w)", path,
			exit.ErrRefused, sb.Name, err)
	}
	return err
}

// forRepair opens a set whose superblocks may be damaged, to be written to if
// it is not a dry run.
func forRepair(ctx context.Context, path string, spares []string, hint *metadata.Superblock,
	dryRun bool) (*set.Set, error) {
	s, err := set.Gather(ctx, path, spares, hint, blockdev.Options{ReadOnly: dryRun})
	if err != nil {
		return nil, served(ctx, path, err)
	}
	for _, d := range s.Devices {
		sb, err := metadata.Probe(d)
		if errors.Is(err, metadata.ErrPath) {
			return nil, errors.Join(err, s.Close())
		}
		if err != nil {
			sb = hint // that is the set that it is to become
		}
		if err := busyElsewhere(ctx, d, sb); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

// busyElsewhere refuses a disk whose set is being served over another path, or
// by a server that has not opened it yet. If a device waits for a server its disk may be
// mended, for that may be what start needs; but no copy of it, which would
// be the newer one then.
func busyElsewhere(ctx context.Context, d *blockdev.Device, sb *metadata.Superblock) error {
	if sb == nil {
		return nil
	}
	r, err := control.ReadRecord(sb.Name)
	if err == nil && r.UUID != sb.UUID.String() {
		return nil // another set of that name
	}
	if !control.Owned(sb.Name) {
		if err != nil || !present(r) {
			return nil
		}
		for _, p := range append([]string{r.Backing}, r.Spares...) {
			if p == d.Path() || blockdev.SameDisk(p, d.Path()) {
				return nil
			}
		}
		if now, err := set.Identify(ctx, r.Backing); err != nil || now.UUID != sb.UUID {
			return nil // it is not there any more
		}
		return fmt.Errorf("%s: %w: its set %q is that of %s over %s, which waits for a server, "+
			"and this is another disk; first: %s",
			d.Path(), exit.ErrRefused, sb.Name, r.Device, r.Backing, shell.Command("stop", sb.Name))
	}
	return fmt.Errorf("%s: %w: its set %q is being served; stop it first", d.Path(),
		exit.ErrRefused, sb.Name)
}

// otherUse refuses a device that lost the superblocks at its start and carries
// something else: it was put to another use.
func otherUse(d *blockdev.Device, do string) error {
	if metadata.Front(d) {
		return nil
	}
	if found := set.Marks(d); found != "" {
		return fmt.Errorf("%s: %w: its superblocks are gone, and there is %s on it; if it was "+
			"put to another use leave it alone, else %s",
			d.Path(), exit.ErrRefused, found, do)
	}
	return nil
}

// runOptions are those of now.
func runOptions() (metadata.RunOptions, error) {
	var session [8]byte
	if _, err := rand.Read(session[:]); err != nil {
		return metadata.RunOptions{}, err
	}
	return metadata.RunOptions{Now: metadata.Seconds(time.Now()),
		Session: binary.LittleEndian.Uint64(session[:])}, nil
}

// leftOver is the error of a repair or a restore after which something is still
// wrong.
func leftOver(path string, r *metadata.Report) error {
	for _, p := range r.Problems {
		if p.Severity != metadata.SeverityInfo {
			return fmt.Errorf("%s: done, but not everything could be made whole: %s: %s; the "+
				"disk may be failing, see: %s", path, p.Where, p.What, shell.Command("metadata",
				"check", path))
		}
	}
	return nil
}
