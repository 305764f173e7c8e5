package health

import (
	"fmt"
	"strings"
)

// statisticsPage is a page of the device statistics of an ATA drive (ACS-4, 9.5). Pages have
// numbers, and the values in them offsets, which are the same for all vendors.
type statisticsPage struct {
	Number int `json:"number"`
	Table  []struct {
		Offset int    `json:"offset"`
		Value  *int64 `json:"value"`
		Flags  struct {
			Valid bool `json:"valid"`
		} `json:"flags"`
	} `json:"table"`
}

// statistics takes what a drive has no attribute for. The numbers have a meaning that is fixed,
// but a drive that has both counts the same in both.
func (d *Drive) statistics(pages []statisticsPage) {
	for _, p := range pages {
		for _, v := range p.Table {
			var to **int64
			switch [2]int{p.Number, v.Offset} {
			case [2]int{3, 32}:
				to = &d.Reallocated
			case [2]int{4, 8}:
				to = &d.Uncorrected
			case [2]int{6, 24}:
				to = &d.CRC
			case [2]int{7, 8}:
				to = &d.EnduranceUsed
			default:
				continue
			}
			if *to == nil && v.Value != nil && v.Flags.Valid && *v.Value >= 0 &&
				*v.Value <= maxRaw {
				*to = v.Value
			}
		}
	}
}

// nvmeTests is the self-test log of an NVMe drive, the newest test first.
type nvmeTests struct {
	Table []struct {
		Code   struct{ String string } `json:"self_test_code"`
		Result struct {
			Value  int    `json:"value"`
			String string `json:"string"`
		} `json:"self_test_result"`
		LBA *uint64 `json:"lba"`
	} `json:"table"`
}

// Results of an NVMe self-test that say something of the drive, NVM Express Base Specification 2.0,
// figure 212. All others are tests that did not end.
const (
	nvmeTestGood    = 0
	nvmeTestFatal   = 5
	nvmeTestUnknown = 6 // a segment failed, it is not known which
	nvmeTestSegment = 7
)

func (d *Drive) nvmeSelfTest(log nvmeTests) {
	for _, t := range log.Table {
		switch t.Result.Value {
		case nvmeTestGood:
		case nvmeTestFatal, nvmeTestUnknown, nvmeTestSegment:
			d.SelfTestFailed = true
		default:
			continue
		}
		d.SelfTest = strings.ToLower(t.Code.String + ": " + t.Result.String)
		if d.SelfTestFailed && t.LBA != nil {
			d.SelfTest += fmt.Sprintf(" at LBA %d", *t.LBA)
		}
		return
	}
}

// scsiTest is an element of the self-test log of a SCSI drive.
type scsiTest struct {
	Code   struct{ String string } `json:"code"`
	Result struct {
		Value  int    `json:"value"`
		String string `json:"string"`
	} `json:"result"`
}

// Results of a SCSI self-test, SPC-4, 7.3.17.
const (
	scsiTestGood    = 0
	scsiTestUnknown = 3 // an error, the test could not end; up to 7 it is a segment that failed
	scsiTestLast    = 7
)

func (d *Drive) scsiSelfTest(t *scsiTest) {
	if t == nil {
		return
	}
	failed := t.Result.Value >= scsiTestUnknown && t.Result.Value <= scsiTestLast
	if failed || t.Result.Value == scsiTestGood {
		d.SelfTestFailed = failed
		d.SelfTest = strings.ToLower(t.Code.String + ": " + t.Result.String)
	}
}
