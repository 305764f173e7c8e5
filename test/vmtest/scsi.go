package vmtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// ScsiDebug is the disk of the scsi_debug module: a SCSI disk in memory that
// answers with real sense data. There is one at a time on a machine.
type ScsiDebug struct {
	// Path of the block device.
	Path string
	// HCTL is its SCSI address, such as 2:0:0:0.
	HCTL string
}

const scsiDebugParams = "/sys/module/scsi_debug/parameters"

// NewScsiDebug loads scsi_debug with these parameters (modinfo scsi_debug),
// such as "dev_size_mb=256" and "sector_size=4096".
func NewScsiDebug(t testing.TB, params ...string) *ScsiDebug {
	t.Helper()
	if _, err := os.Stat(scsiDebugParams); err == nil {
		lacking(t, "scsi_debug is in use already")
	}
	Modprobe(t, "scsi_debug", params...)
	t.Cleanup(func() {
		err := retry(20*time.Second, func() error {
			out, err := exec.Command("modprobe", "-r", "scsi_debug").CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
		if err != nil {
			t.Errorf("modprobe -r scsi_debug: %v", err)
		}
	})
	d := &ScsiDebug{}
	err := retry(20*time.Second, func() error {
		const pattern = "/sys/bus/pseudo/drivers/scsi_debug/adapter*/host*/target*/*:*/block/*"
		found, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return errors.New("scsi_debug made no disk (is the module sd_mod there?)")
		}
		d.Path = "/dev/" + filepath.Base(found[0])
		d.HCTL = filepath.Base(filepath.Dir(filepath.Dir(found[0])))
		_, err = os.Stat(d.Path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// SetMediumErrors makes reads of blocks [start, start+count) fail with a
// medium error, which an O_DIRECT reader sees as ENODATA. Counted in blocks of
// the disk. Writes go through and heal nothing; count 0 heals. Only one range
// at a time, and it moves: setting it replaces the one before.
func (d *ScsiDebug) SetMediumErrors(t testing.TB, start, count int64) {
	t.Helper()
	// Bit 1 of opts (SDEBUG_OPT_MEDIUM_ERR) turns the range on.
	opts := "2"
	if count == 0 {
		opts = "0"
	}
	for _, p := range [][2]string{
		{"opts", "0"},
		{"medium_error_start", fmt.Sprint(start)},
		{"medium_error_count", fmt.Sprint(count)},
		{"opts", opts},
	} {
		if err := os.WriteFile(filepath.Join(scsiDebugParams, p[0]), []byte(p[1]), 0); err != nil {
			t.Fatalf("scsi_debug: %v", err)
		}
	}
}

// Inject adds an error injection rule in the syntax of the module's debugfs
// file, type, count and SCSI opcode first (drivers/scsi/scsi_debug.c,
// sdebug_error_write): "2 -3 0x2a 0 0 0x2 0x3 0xc 0x2" fails three WRITE(10)
// with a medium error.
func (d *ScsiDebug) Inject(t testing.TB, rule string) {
	t.Helper()
	file := filepath.Join("/sys/kernel/debug/scsi_debug", d.HCTL, "error")
	if err := os.WriteFile(file, []byte(rule), 0); err != nil {
		t.Fatalf("scsi_debug: %q: %v", rule, err)
	}
}
