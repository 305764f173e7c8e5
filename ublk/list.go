package ublk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

const (
	sysClassDir = "/sys/class/ublk-char"
	devDir      = "/dev"
	charPrefix  = "ublkc"
)

// List returns the devices that exist, by number. A device that goes away meanwhile is left out.
func (c *Control) List(ctx context.Context) ([]DeviceInfo, error) {
	ids, err := deviceIDs(sysClassDir)
	if errors.Is(err, fs.ErrNotExist) {
		// No sysfs here.
		ids, err = deviceIDs(devDir)
	}
	if err != nil {
		return nil, fmt.Errorf("ublk: list of devices: %w", err)
	}
	var infos []DeviceInfo
	for _, id := range ids {
		info, err := c.Info(ctx, id)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// deviceIDs reads the numbers N from entries ublkcN of a directory.
func deviceIDs(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var ids []int
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), charPrefix)
		if !ok {
			continue
		}
		if id, err := strconv.Atoi(digits); err == nil && id >= 0 {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, nil
}
