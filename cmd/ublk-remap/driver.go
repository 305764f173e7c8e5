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

	"ublkremap/cmd/ublk-remap/internal/exit"
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
			return fmt.Errorf("%w: ublk_drv is loaded, but %s does not appear; in a container, "+
				"give it that device (docs/CONTAINERS.md), else see: ublk-remap doctor",
				exit.ErrUnsupported, ublk.ControlPath)
		}
	}
}

// modprobe loads a module.
func modprobe(ctx context.Context, module string) error {
	path, err := exec.LookPath("modprobe")
	if err != nil {
		path = "/sbin/modprobe"
	}
	return modprobeBy(ctx, path, module)
}

func modprobeBy(ctx context.Context, path, module string) error {
	out, err := exec.CommandContext(ctx, path, module).CombinedOutput()
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("there is no modprobe here; install kmod, or load it from the host of " +
			"the container")
	}
	return outputError("modprobe "+module, err, out)
}

// outputError is the error of a program, with what it has printed; nil if it has none.
func outputError(what string, err error, out []byte) error {
	text := strings.TrimSpace(string(out))
	switch {
	case err == nil:
		return nil
	case text == "":
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w: %s", what, err, text)
}
