package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"ublkremap/internal/control"
	"ublkremap/internal/host/set"
	"ublkremap/metadata"
	"ublkremap/ublk"
)

// udevCommand tells udev's rules (packaging/udev) what a block device is. It prints properties, one
// per line. It prints nothing about devices that do not belong to this program.
//
// For a disk that carries a set, or is a spare device of one:
//
//	UBLK_REMAP_NAME, UBLK_REMAP_UUID   the set's
//	UBLK_REMAP_ROLE                    backing or spare
//	UBLK_REMAP_INSTANCE                the name, if a unit can be called so
//
// For /dev/ublkbN and its partitions:
//
//	UBLK_REMAP_NAME, UBLK_REMAP_UUID   the set's
//	UBLK_REMAP_ROLE                    device
//	UBLK_REMAP_SERVED                  1, or 0 while it waits for a server
//
// In the second case the device itself is never opened. A process that opens a device without a
// server may wait for ever.
func udevCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "udev DEVICE",
		Short:  "Print udev properties of a block device",
		Hidden: true,
		Args:   arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if number, ok := strings.CutPrefix(args[0], "/dev/ublkb"); ok {
				return udevDevice(cmd.Context(), a.out, number)
			}
			return udevDisk(cmd.Context(), a.out, args[0])
		},
	}
}

// udevDisk prints what a disk is. A disk that carries no set, or cannot be read, is not one of
// ours.
func udevDisk(ctx context.Context, w io.Writer, path string) error {
	sb, err := set.Identify(ctx, path)
	if err != nil {
		return nil
	}
	return udevPrint(w, diskProperties(sb))
}

func diskProperties(sb *metadata.Superblock) [][2]string {
	role := "backing"
	if sb.DeviceIndex != 0 {
		role = "spare"
	}
	props := [][2]string{{"NAME", sb.Name}, {"UUID", sb.UUID.String()}, {"ROLE", role}}
	if instance(sb.Name) {
		props = append(props, [2]string{"INSTANCE", sb.Name})
	}
	return props
}

// udevDevice prints what an exported device is. For a partition it prints that of the device.
// number is the text after ublkb in the name.
func udevDevice(ctx context.Context, w io.Writer, number string) error {
	number, _, _ = strings.Cut(number, "p")
	id, err := strconv.Atoi(number)
	if err != nil {
		return nil
	}
	records, _ := control.Records() // the records that can be read
	for _, r := range records {
		if r.ID == id {
			served := "0"
			if control.Owned(r.Name) && liveInKernel(ctx, id) {
				served = "1"
			}
			return udevPrint(w, [][2]string{{"NAME", r.Name}, {"UUID", r.UUID},
				{"ROLE", "device"}, {"SERVED", served}})
		}
	}
	return nil
}

// liveInKernel reports whether the kernel passes a device's requests to a server.
func liveInKernel(ctx context.Context, id int) bool {
	ctl, err := ublk.OpenControl()
	if err != nil {
		return false
	}
	defer ctl.Close()
	info, err := ctl.Info(ctx, id)
	return err == nil && info.State == ublk.StateLive
}

// udevPrint leaves out values that are not one word, because the rules make names of links from
// them.
func udevPrint(w io.Writer, props [][2]string) error {
	for _, p := range props {
		if !word(p[1], "+=@%") {
			continue
		}
		if _, err := fmt.Fprintf(w, "UBLK_REMAP_%s=%s\n", p[0], p[1]); err != nil {
			return err
		}
	}
	return nil
}

// instance reports whether a set's unit can be ublk-remap@NAME.service.
func instance(name string) bool {
	return word(name, "") && !strings.HasPrefix(name, "-")
}

// word reports whether a text consists of ASCII letters and digits, of ":_.-", and of the
// characters in more, and is not a relative path.
func word(s, more string) bool {
	if s == "" || s == "." || s == ".." {
		return false
	}
	for _, c := range s {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9') &&
			!strings.ContainsRune(":_.-"+more, c) {
			return false
		}
	}
	return true
}
