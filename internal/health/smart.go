package health

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Drive is what a drive says of itself. A pointer is nil if the drive does not say it.
type Drive struct {
	Disk     string `json:"disk"` // path
	Protocol string `json:"protocol"`
	Model    string `json:"model"`
	Serial   string `json:"serial"`
	// Passed is the drive's own verdict.
	Passed *bool `json:"passed"`
	// Failing names the attributes that are at or below the drive's threshold now, Failed those
	// that were.
	Failing       []string `json:"failing"`
	Failed        []string `json:"failed"`
	PowerOnHours  *int64   `json:"power_on_hours"`
	Temperature   *int64   `json:"temperature"`     // °C
	TemperatureOf *int64   `json:"temperature_max"` // °C, the drive's own limit
	// sectors that the drive has replaced, or the grown defect list of a SCSI drive
	Reallocated *int64 `json:"reallocated"`
	// sectors that did not read and wait for a write
	Pending *int64 `json:"pending"`
	// sectors that the drive's own scan could not read
	OfflineUncorrectable *int64 `json:"offline_uncorrectable"`
	// reads and writes that were answered with an error of the medium, since the drive was made
	Uncorrected      *int64 `json:"uncorrected"`
	UncorrectedWrite *int64 `json:"uncorrected_writes"`
	EndToEnd         *int64 `json:"end_to_end_errors"`
	SpinRetries      *int64 `json:"spin_retries"`
	// errors of the link: a cable, a connector, a backplane
	CRC *int64 `json:"crc_errors"`
	// Hot: an NVMe drive says that its temperature is beyond its limits.
	Hot bool `json:"temperature_beyond_limits"`
	// NVMe: the critical warning, in words; spare blocks and endurance in percent
	Warnings       []string `json:"warnings"`
	SpareLeft      *int64   `json:"spare_left_percent"`
	SpareThreshold *int64   `json:"spare_threshold_percent"`
	EnduranceUsed  *int64   `json:"endurance_used_percent"`
	// SelfTest is the newest self-test that ended, in words; SelfTestFailed says that it found
	// something.
	SelfTest       string `json:"self_test"`
	SelfTestFailed bool   `json:"self_test_failed"`
	// Note says why there is nothing, or not everything; empty otherwise.
	Note string `json:"note"`
}

// report is the part of the output of smartctl --json that is used, see smartctl(8) and
// smartmontools' json_schema.
type report struct {
	Smartctl struct {
		ExitStatus *int `json:"exit_status"`
		Messages   []struct {
			String   string `json:"string"`
			Severity string `json:"severity"`
		} `json:"messages"`
	} `json:"smartctl"`
	Device struct {
		Protocol string `json:"protocol"`
	} `json:"device"`
	ModelName string `json:"model_name"`
	SCSIModel string `json:"scsi_model_name"`
	Product   string `json:"product"`
	Serial    string `json:"serial_number"`
	Status    struct {
		Passed *bool `json:"passed"`
	} `json:"smart_status"`
	PowerOn struct {
		Hours *int64 `json:"hours"`
	} `json:"power_on_time"`
	Temperature struct {
		Current *int64 `json:"current"`
		Trip    *int64 `json:"drive_trip"`
		Limit   *int64 `json:"op_limit_max"`
	} `json:"temperature"`
	Attributes struct {
		Table []attribute `json:"table"`
	} `json:"ata_smart_attributes"`
	PendingDefects struct {
		Count *int64 `json:"count"`
	} `json:"ata_pending_defects_log"`
	SelfTests struct {
		Standard selfTests `json:"standard"`
		Extended selfTests `json:"extended"`
	} `json:"ata_smart_self_test_log"`
	Statistics struct {
		Pages []statisticsPage `json:"pages"`
	} `json:"ata_device_statistics"`
	NVMe      *nvmeLog  `json:"nvme_smart_health_information_log"`
	NVMeTests nvmeTests `json:"nvme_self_test_log"`
	Grown     *int64    `json:"scsi_grown_defect_list"`
	SCSITest  *scsiTest `json:"scsi_self_test_0"` // the newest
	SCSIUsed  *int64    `json:"scsi_percentage_used_endurance_indicator"`
	// of version 7.4 and later, for all kinds of drives
	Endurance struct {
		Used *int64 `json:"current_percent"`
	} `json:"endurance_used"`
	SCSIErrors *struct {
		Read  scsiErrors `json:"read"`
		Write scsiErrors `json:"write"`
	} `json:"scsi_error_counter_log"`
}

type attribute struct {
	ID         int    `json:"id"`
	Name       string `json:"name"`
	Value      int64  `json:"value"`
	Threshold  int64  `json:"thresh"`
	WhenFailed string `json:"when_failed"` // "", now or past
	Raw        struct {
		Value  int64  `json:"value"`
		String string `json:"string"`
	} `json:"raw"`
}

// count returns what the raw value counts; false if that is not known. Some vendors keep several
// numbers in the 48 bits: smartctl writes those as people read them, such as "8 (0 12)", the count
// first.
func (a *attribute) count() (int64, bool) {
	text, _, packed := strings.Cut(a.Raw.String, " ")
	if n, err := strconv.ParseInt(text, 10, 64); packed && err == nil && n >= 0 {
		return n, n <= maxRaw
	}
	return a.Raw.Value, a.Raw.Value >= 0 && a.Raw.Value <= maxRaw
}

type selfTests struct {
	Table []struct {
		Type   struct{ String string } `json:"type"`
		Status struct {
			Value  int    `json:"value"`
			String string `json:"string"`
			Passed *bool  `json:"passed"`
		} `json:"status"`
		Hours *int64  `json:"lifetime_hours"`
		LBA   *uint64 `json:"lba"`
	} `json:"table"`
}

type nvmeLog struct {
	CriticalWarning int    `json:"critical_warning"`
	Spare           *int64 `json:"available_spare"`
	SpareThreshold  *int64 `json:"available_spare_threshold"`
	Used            *int64 `json:"percentage_used"`
	MediaErrors     *int64 `json:"media_errors"`
}

type scsiErrors struct {
	Uncorrected *int64 `json:"total_uncorrected_errors"`
}

// nvmeHot is the bit of the critical warning that says nothing of the medium: the drive is too warm
// or too cold.
const nvmeHot = 1 << 1

// nvmeWarnings are the bits of the critical warning, NVM Express Base Specification 2.0, figure
// 207. nvmeHot has a field of its own.
var nvmeWarnings = []string{
	"its spare blocks are below its threshold",
	"",
	"its reliability is degraded by errors of the medium",
	"it has become read-only",
	"its volatile memory backup has failed",
	"its persistent memory region is read-only or unreliable",
}

// Bits of the exit status of smartctl(8), EXIT STATUS.
const (
	exitUsage   = 1 << 0 // the command line, or the kind of the disk
	exitOpen    = 1 << 1 // the disk could not be opened or asked
	exitCommand = 1 << 2 // a command failed, or an answer was damaged
)

// maxRaw is more than any counter of errors of a real drive. Some vendors keep several numbers in
// one raw value.
const maxRaw = 1<<32 - 1

// Decode reads the output of smartctl --json for the disk at this path. It never fails: a Drive
// that says nothing has a Note.
func Decode(disk string, output []byte) Drive {
	d := Drive{Disk: disk, Failing: []string{}, Failed: []string{}, Warnings: []string{}}
	var r report
	if err := json.Unmarshal(output, &r); err != nil {
		var odd *json.UnmarshalTypeError
		if !errors.As(err, &odd) {
			d.Note = "smartctl gives no JSON; it is older than 7.0, or another program"
			return d
		}
		d.Note = fmt.Sprintf("smartctl's %s is of an unknown form", odd.Field)
	}
	d.Protocol, d.Serial = r.Device.Protocol, r.Serial
	for _, name := range []string{r.ModelName, r.SCSIModel, r.Product} {
		if d.Model == "" {
			d.Model = strings.Join(strings.Fields(name), " ")
		}
	}
	d.Passed, d.PowerOnHours = r.Status.Passed, r.PowerOn.Hours
	if t := r.Temperature.Current; t != nil && *t > 0 {
		d.Temperature = t
	}
	if d.TemperatureOf = r.Temperature.Trip; d.TemperatureOf == nil {
		d.TemperatureOf = r.Temperature.Limit
	}
	if t := d.TemperatureOf; t != nil && *t <= 0 {
		d.TemperatureOf = nil
	}
	d.attributes(r.Attributes.Table)
	if r.PendingDefects.Count != nil {
		d.Pending = r.PendingDefects.Count // the newer source of the same number
	}
	d.selfTest(r.SelfTests.Extended, r.SelfTests.Standard)
	d.statistics(r.Statistics.Pages)
	d.nvme(r.NVMe)
	d.nvmeSelfTest(r.NVMeTests)
	d.scsiSelfTest(r.SCSITest)
	if r.Grown != nil {
		d.Reallocated = r.Grown
	}
	if e := r.SCSIErrors; e != nil {
		d.Uncorrected = e.Read.Uncorrected
		d.UncorrectedWrite = e.Write.Uncorrected
	}
	if r.SCSIUsed != nil {
		d.EnduranceUsed = r.SCSIUsed
	}
	if r.Endurance.Used != nil {
		d.EnduranceUsed = r.Endurance.Used
	}
	if d.Note == "" {
		d.Note = r.note(&d)
	}
	return d
}

// note says why the drive says nothing.
func (r *report) note(d *Drive) string {
	if d.says() {
		return ""
	}
	for _, m := range r.Smartctl.Messages {
		if m.Severity == "error" {
			return "smartctl: " + strings.Join(strings.Fields(m.String), " ")
		}
	}
	if s := r.Smartctl.ExitStatus; s != nil && *s&(exitUsage|exitOpen|exitCommand) != 0 {
		return fmt.Sprintf("smartctl: exit status %d", *s)
	}
	return "the drive says nothing of its health"
}

// says reports whether there is anything that a verdict can be built on.
func (d *Drive) says() bool {
	for _, n := range []*int64{d.Reallocated, d.Pending, d.Uncorrected, d.SpareLeft,
		d.EnduranceUsed} {
		if n != nil {
			return true
		}
	}
	return d.Passed != nil || d.Hot
}

// attributes takes the table of an ATA drive. The numbers of the attributes have no standard; those
// used here mean the same to all vendors, as smartmontools' drivedb.h has it.
func (d *Drive) attributes(table []attribute) {
	for _, a := range table {
		name := strings.ReplaceAll(a.Name, "_", " ")
		switch a.WhenFailed {
		case "now":
			d.Failing = append(d.Failing, name)
		case "past":
			d.Failed = append(d.Failed, name)
		}
		var to **int64
		switch a.ID {
		case 5:
			to = &d.Reallocated
		case 10:
			to = &d.SpinRetries
		case 184:
			to = &d.EndToEnd
		case 187:
			to = &d.Uncorrected
		case 197:
			to = &d.Pending
		case 198:
			to = &d.OfflineUncorrectable
		case 199:
			to = &d.CRC
		default:
			continue
		}
		if n, ok := a.count(); ok {
			*to = &n
		}
	}
}

// Self-test execution status, ATA Command Set, SMART self-test log.
const (
	testAborted     = 1
	testInterrupted = 2
	testRunning     = 15
)

// selfTest takes the newest test that ended, from the first log that has one. The newest test of a
// log is first.
func (d *Drive) selfTest(logs ...selfTests) {
	for _, log := range logs {
		for _, t := range log.Table {
			switch t.Status.Value >> 4 {
			case testAborted, testInterrupted, testRunning:
				continue
			}
			d.SelfTestFailed = t.Status.Passed != nil && !*t.Status.Passed
			d.SelfTest = strings.ToLower(t.Type.String + ": " + t.Status.String)
			if t.LBA != nil && d.SelfTestFailed {
				d.SelfTest += fmt.Sprintf(" at LBA %d", *t.LBA)
			}
			return
		}
	}
}

func (d *Drive) nvme(n *nvmeLog) {
	if n == nil {
		return
	}
	for i, text := range nvmeWarnings {
		if text != "" && n.CriticalWarning&(1<<i) != 0 {
			d.Warnings = append(d.Warnings, text)
		}
	}
	d.Hot = n.CriticalWarning&nvmeHot != 0
	if n.CriticalWarning == nvmeHot {
		d.Passed = nil // smartctl calls each warning a failure of the drive
	}
	d.SpareLeft, d.SpareThreshold, d.EnduranceUsed = n.Spare, n.SpareThreshold, n.Used
	d.Uncorrected = n.MediaErrors
}
