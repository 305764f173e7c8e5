package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"ublkremap/ublk"
)

// driverWait is how long the control device may take to appear once the module is loaded.
const driverWait = 5 * time.Second

// loadDriver makes sure that the kernel's driver is loaded.
func loadDriver(ctx context.Context, log zerolog.Logger) error {
	if _, err := os.Stat(ublk.ControlPath); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := modprobe(ctx, "ublk_drv"); err != nil {
		return fmt.Errorf("%w (%w)", ublk.ErrNoDriver, err)
	}
	log.Info().Msg("loaded ublk_drv")
	for deadline := time.Now().Add(driverWait); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(ublk.ControlPath); err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: the module is loaded but %s does not appear", ublk.ErrNoDriver,
				ublk.ControlPath)
		}
	}
}

// modprobe loads a module.
func modprobe(ctx context.Context, module string) error {
	path, err := exec.LookPath("modprobe")
	if err != nil {
		path = "/sbin/modprobe"
	}
	out, err := exec.CommandContext(ctx, path, module).CombinedOutput()
	if err != nil {
		return fmt.Errorf("modprobe %s: %w: %s", module, err, strings.TrimSpace(string(out)))
	}
	return nil
}
