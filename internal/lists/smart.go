package lists

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// smartDocument is what of smartctl's JSON names blocks (ataprint.cpp, scsiprint.cpp and
// nvmeprint.cpp of smartmontools 7). Entries of a table may be null.
type smartDocument struct {
	Smartctl *json.RawMessage `json:"smartctl"`
	// bytes of the blocks that all the numbers count
	BlockSize int `json:"logical_block_size"`
	Capacity  struct {
		Bytes int64 `json:"bytes"`
	} `json:"user_capacity"`
	SelfTest *struct {
		Standard smartTable `json:"standard"`
		Extended smartTable `json:"extended"`
	} `json:"ata_smart_self_test_log"`
	Pending     *smartTable `json:"ata_pending_defects_log"`
	SCSIPending *smartTable `json:"scsi_pending_defects"`
	NVMeTest    *smartTable `json:"nvme_self_test_log"`
}

type smartTable struct {
	Table []*struct {
		LBA *uint64 `json:"lba"` // missing where the test found nothing
	} `json:"table"`
}

// smartSCSITest is an element of a SCSI self-test log, scsi_self_test_0 to _19.
type smartSCSITest struct {
	LBA *struct {
		Value *uint64 `json:"value"`
	} `json:"lba_first_failure"`
}

const smartSCSITestKey = "scsi_self_test_"

// smart reads what smartctl --json printed: the block at which each self-test failed, and the
// blocks that the drive itself holds to be unreadable.
func (r *reader) smart(in io.Reader) error {
	b, err := readAll(in)
	if err != nil {
		return err
	}
	var d smartDocument
	if err := r.decode(b, &d); err != nil {
		return err
	}
	var scsi map[string]json.RawMessage
	if err := r.decode(b, &scsi); err != nil {
		return err
	}
	if d.Smartctl == nil {
		return fmt.Errorf("%w: it is JSON, but not that of smartctl --json", ErrList)
	}
	r.Block = cmp.Or(r.Block, d.BlockSize, 512)
	if r.Block < 512 || r.Block > 1<<16 || r.Block&(r.Block-1) != 0 {
		return fmt.Errorf("%w: blocks of %d bytes", ErrList, r.Block)
	}
	r.list.Disk = d.Capacity.Bytes
	logs := 0
	tables := []*smartTable{d.Pending, d.SCSIPending, d.NVMeTest}
	if d.SelfTest != nil {
		tables = append(tables, &d.SelfTest.Standard, &d.SelfTest.Extended)
	}
	for _, t := range tables {
		if t == nil {
			continue
		}
		logs++
		for _, e := range t.Table {
			if e == nil || e.LBA == nil {
				continue
			}
			if err := r.lba(*e.LBA, 1); err != nil {
				return err
			}
		}
	}
	for key, raw := range scsi {
		if !strings.HasPrefix(key, smartSCSITestKey) {
			continue
		}
		logs++
		var t smartSCSITest
		if json.Unmarshal(raw, &t) == nil && t.LBA != nil && t.LBA.Value != nil {
			if err := r.lba(*t.LBA.Value, 1); err != nil {
				return err
			}
		}
	}
	if logs == 0 {
		return fmt.Errorf("%w: it has neither a self-test log nor pending defects; smartctl "+
			"--json -x prints them", ErrList)
	}
	return nil
}

// lba adds count blocks of a drive.
func (r *reader) lba(first, count uint64) error {
	if first > maxBlock || count > maxBlock {
		return fmt.Errorf("%w: no drive has block %d+%d", ErrList, first, count)
	}
	return r.blocks(int64(first), int64(count))
}
