package ublk

import (
	"errors"
	"fmt"

	"ublkremap/ublk/internal/uapi"
)

// A Choice says how much a feature is wanted.
type Choice uint8

const (
	// Auto uses the feature if the kernel has it.
	Auto Choice = iota
	// Require fails with an UnsupportedFeatureError if the kernel lacks it.
	Require
	// Never does not use the feature.
	Never
)

// AnyID lets the kernel choose the device's number.
const AnyID = -1

// Limits of a queue and of the size of a request.
const (
	MaxQueues    = uapi.MaxQueues
	MaxDepth     = uapi.MaxQueueDepth
	MaxIOBytes   = 1 << uapi.IOBufBits
	DefaultDepth = 128
	DefaultMaxIO = 512 << 10
)

// Config says what device to make. The zero value of a field is its default.
type Config struct {
	ID     int // AnyID, or the number N of /dev/ublkbN; note that zero asks for /dev/ublkb0
	Queues int // hardware queues, 1 to MaxQueues; 0 is 1. The kernel may give fewer
	Depth  int // requests in flight per queue, 1 to MaxDepth; 0 is DefaultDepth
	// largest read or write in bytes, a multiple of the page size up to MaxIOBytes; 0 is
	// DefaultMaxIO
	MaxIO int

	ZeroCopy Choice // zero copy with automatic buffer registration, Linux 6.16
	// BatchIO exchanges many requests with one command, Linux 7.0. It needs a depth of 2 or more.
	// Auto is Never: up to Linux 7.3 it has the faults that KnownBadBatchIO lists, and such a
	// device cannot be quiesced.
	BatchIO  Choice
	Recovery Choice // user recovery with reissue: the device outlives its server, Linux 6.1
	// NoPartScan keeps the kernel from looking for partitions when the device starts, Linux 7.0.
	NoPartScan bool
	// Tag tells later servers whose device it is; see DeviceInfo.
	Tag uint64

	Params Params
}

// autoBatchIO is what Auto means for Config.BatchIO.
const autoBatchIO = Never

// minBatchDepth: the kernel's own queue of a batch is refused if it has room for less
// (kfifo_alloc in lib/kfifo.c).
const minBatchDepth = 2

func (c *Config) setDefaults() {
	if c.Queues == 0 {
		c.Queues = 1
	}
	if c.Depth == 0 {
		c.Depth = DefaultDepth
	}
	if c.MaxIO == 0 {
		c.MaxIO = DefaultMaxIO
	}
}

func (c *Config) validate() error {
	switch {
	case c.ID < AnyID:
		return fmt.Errorf("ublk: device id %d", c.ID)
	case c.Queues < 1 || c.Queues > MaxQueues:
		return fmt.Errorf("ublk: %d queues: must be 1 to %d", c.Queues, MaxQueues)
	case c.Depth < 1 || c.Depth > MaxDepth:
		return fmt.Errorf("ublk: queue depth %d: must be 1 to %d", c.Depth, MaxDepth)
	case c.BatchIO == Require && c.Depth < minBatchDepth:
		return fmt.Errorf("ublk: queue depth %d: batch I/O needs at least %d", c.Depth,
			minBatchDepth)
	case c.MaxIO < pageSize || c.MaxIO > MaxIOBytes || c.MaxIO%pageSize != 0:
		return fmt.Errorf("ublk: largest request of %d bytes: must be a multiple of %d up to %d",
			c.MaxIO, pageSize, MaxIOBytes)
	}
	return c.Params.validate()
}

// features turns the choices into the flags of ADD_DEV. have is what the kernel knows.
func (c *Config) features(have Features) (Features, error) {
	flags := FeatureIoctlEncode
	pick := func(choice Choice, bits Features) error {
		if choice == Never {
			return nil
		}
		err := have.Require(bits)
		if err == nil {
			flags |= bits
			return nil
		}
		if choice == Require {
			return err
		}
		return nil
	}
	batch := c.BatchIO
	if batch == Auto {
		batch = autoBatchIO
		if c.Depth < minBatchDepth {
			batch = Never
		}
	}
	err := errors.Join(
		// Automatic registration is checked first: it came one version later, so the error must
		// name it.
		pick(c.ZeroCopy, FeatureAutoBufReg),
		pick(batch, FeatureBatchIO),
		pick(c.Recovery, FeatureRecovery|FeatureRecoveryReissue),
	)
	if err != nil {
		return 0, err
	}
	if flags.Has(FeatureAutoBufReg) {
		flags |= FeatureZeroCopy
	}
	if c.NoPartScan {
		if err := have.Require(FeatureNoAutoPartScan); err != nil {
			return 0, err
		}
		flags |= FeatureNoAutoPartScan
	}
	// A device that can be resized costs no more than another one.
	flags |= have & (FeatureUpdateSize)
	// A device with batch I/O must not be quiesced: up to Linux 7.3 at least its requests
	// fail then, until the next server is there (ublk_batch_cancel_queue in
	// drivers/block/ublk_drv.c sets force_abort). Without the feature no command can do that.
	if flags.Has(FeatureRecovery) && !flags.Has(FeatureBatchIO) {
		flags |= have & FeatureQuiesce
	}
	return flags, nil
}
