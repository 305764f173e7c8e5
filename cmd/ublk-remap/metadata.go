package main

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/host/set"
	"ublkremap/internal/shell"
	"ublkremap/metadata"
)

func metadataCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "metadata",
		Short: "Check, save and mend the metadata of a disk",
		Long: `The metadata of a disk says which blocks live in its spare region. It is kept
twice. These verbs read it, mend one copy from the other, save it, and bring it
back. All but backup and dump want a disk that is not being served.`,
		RunE: group,
	}
	cmd.AddCommand(metadataCheckCommand(a), metadataDumpCommand(a), metadataRepairCommand(a),
		metadataBackupCommand(a), metadataRestoreCommand(a))
	return cmd
}

// spareFlag adds --spare-device to a verb.
func spareFlag(cmd *cobra.Command, spares *[]string) {
	cmd.Flags().StringArrayVar(spares, "spare-device", nil,
		"`PATH` of a spare device; may be given several times; those not named are looked for")
}

// otherUse refuses a device that lost the superblocks at its start and carries something else. It
// has been put to another use.
func otherUse(d *blockdev.Device, do string) error {
	if metadata.HasFrontSuperblock(d) {
		return nil
	}
	if found := set.Marks(d); found != "" {
		return fmt.Errorf("%s: %w: its superblocks are gone, and there is %s on it; if it was "+
			"put to another use leave it alone, else %s",
			d.Path(), exit.ErrRefused, found, do)
	}
	return nil
}

// runOptions returns options with the time of day and a random session.
func runOptions() (metadata.RunOptions, error) {
	var session [8]byte
	if _, err := rand.Read(session[:]); err != nil {
		return metadata.RunOptions{}, err
	}
	return metadata.RunOptions{Now: metadata.Seconds(time.Now()),
		Session: binary.LittleEndian.Uint64(session[:])}, nil
}

// leftOver is the error of a repair or a restore that left something wrong.
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
