package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strconv"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
)

// limitFile is the attribute of sysfs that limits how large the requests of a ublk device can be.
var limitFile = regexp.MustCompile(`^/sys/block/ublkb[0-9]+/queue/max_sectors_kb$`)

// writeLimit has another process write the limit of a device, see ublk.RunOptions. If the server is
// killed meanwhile, that process waits until the next server answers the requests. The program is
// in memory (lockText), so starting it reads nothing from a device that is served.
func writeLimit(path, text string) error {
	cmd := ownProcess("write-limit", path, text)
	cmd.Env = []string{}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", path, err, bytes.TrimSpace(out))
	}
	return nil
}

// writeLimitCommand is the other process.
func writeLimitCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "write-limit FILE KIB",
		Short:  "Limit how large the requests of a device can be, for its server",
		Hidden: true,
		Args:   arguments(2, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			path, text := args[0], args[1]
			_, err := strconv.ParseUint(text, 10, 32)
			if err != nil || !limitFile.MatchString(path) {
				return fmt.Errorf("%w: %q and %q are no limit of a device", exit.ErrUsage, path,
					text)
			}
			return os.WriteFile(path, []byte(text), 0)
		},
	}
}
