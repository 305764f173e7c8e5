package lists

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

const k = 1024

// TestDdrescue reads maps of several versions of ddrescue.
func TestDdrescue(t *testing.T) {
	for _, c := range []struct {
		text, status string
		want         []Range
	}{
		{"0 +\n0 0x800 +\n0x800 0x400 -\n", "", []Range{{2 * k, 3 * k}}},
		// 1.0 to 1.19: the first line has two fields, and the file was called a log.
		{"# Rescue Logfile. Created by GNU ddrescue version 1.16\n" +
			"# current_pos  current_status\n0x00120000     ?\n#      pos        size  status\n" +
			"0x00000000  0x00000400  +\n0x00000400  0x00000400  -\n0x00000800  0x00000400  /\n" +
			"0x00000C00  0x00000400  *\n0x00001000  0x7FFFFFFFFFFFEFFF  ?\n", "",
			[]Range{{k, 4 * k}}},
		// since 1.23: with the pass
		{"# Mapfile. Created by GNU ddrescue version 1.27\n0x0 F 3\n0 1024 /\n1024 02000 -\n", "-",
			[]Range{{k, 2 * k}}},
		{"0 + 1 # done\n0x0 0x400 ?\n0x400 0x400 +\n0x800 0x400 -", "?-", []Range{{0, k},
			{2 * k, 3 * k}}},
		{"5 G\n", "", nil},
		{"0 ?\n0x40000000000 0x200 -\n", "", []Range{{1 << 42, 1<<42 + 512}}},
	} {
		got, err := Read(strings.NewReader(c.text), "map", Options{Format: Ddrescue, Size: 1 << 43,
			Status: c.status})
		if err != nil || !slices.Equal(got.Ranges, c.want) {
			t.Errorf("%q: %v, %v", c.text, got, err)
		}
	}
	for text, line := range map[string]string{
		"":                              "map: ",
		"# x\n":                         "map: ",
		"x +\n":                         "map:1: ",
		"0 x\n":                         "map:1: ",
		"0 + x\n":                       "map:1: ",
		"0x0 0x400 +\n":                 "map:1: ", // the first line is missing
		"0 +\n0 0x400\n":                "map:2: ",
		"0 +\n0 0x400 $\n":              "map:2: ",
		"0 +\n0 0 -\n":                  "map:2: ",
		"0 +\n-1 5 -\n":                 "map:2: ",
		"0 +\n0 0b11 -\n":               "map:2: ",
		"0 +\n0 1_0 -\n":                "map:2: ",
		"0 +\n0 09 -\n":                 "map:2: ",
		"0 +\n0 0x400 -\n0x800 1 -\n":   "map:3: ", // a gap
		"0 +\n0 0x400 -\n0x200 1 -\n":   "map:3: ",
		"0 +\n0 0x200000000000 -\n":     "map:2: ", // past the end
		"0 +\n0 0x7FFFFFFFFFFFFFFF -\n": "map:2: ",
		"0 +\n2 0x7FFFFFFFFFFFFFFF -\n": "map:2: ",
		strings.Repeat("0", 1<<17):      "map:1: ",
	} {
		_, err := Read(strings.NewReader(text), "map", Options{Format: Ddrescue, Size: 1 << 43})
		wantError(t, text, line, err)
	}
	_, err := Read(strings.NewReader("0 +\n"), "map", Options{Format: Ddrescue, Size: 1 << 43,
		Status: "-x"})
	wantError(t, "status", "map: ", err)
}

// wantError checks that an error is a line that says where.
func wantError(t *testing.T, text, where string, err error) {
	t.Helper()
	if !errors.Is(err, ErrList) || !strings.HasPrefix(err.Error(), where) ||
		strings.Contains(err.Error(), "\n") || len(err.Error()) > 400 {
		t.Errorf("%.80q: %v", text, err)
	}
}

// TestOffset: a list of a partition, and a list of a disk for what is on one of its partitions.
func TestOffset(t *testing.T) {
	at := func(text string, offset int64) (*List, error) {
		return Read(strings.NewReader(text), "list", Options{Format: Badblocks, Block: 512,
			Offset: offset, Size: 1 << 42})
	}
	l, err := at("0\n4294967296\n", 1<<20)
	if err != nil || !slices.Equal(l.Ranges, []Range{{1 << 20, 1<<20 + 512},
		{1<<41 + 1<<20, 1<<41 + 1<<20 + 512}}) {
		t.Error(l, err)
	}
	if l, err := at("2048\n", -1<<20); err != nil || !slices.Equal(l.Ranges, []Range{{0, 512}}) {
		t.Error(l, err)
	}
	_, err = at("0\n2047\n", -1<<20)
	wantError(t, "before the start", "list:1: ", err)
	_, err = at("1\n8589934591\n", 1<<20)
	wantError(t, "past the end", "list:2: ", err)
	_, err = at("1\n", 1<<62)
	wantError(t, "offset", "not a list", err)
}

func TestSmart(t *testing.T) {
	for file, want := range map[string][]Range{
		"ata.json":  {{35 * 512, 36 * 512}, {5000 * 512, 5001 * 512}, {1 << 42, 1<<42 + 512}},
		"scsi.json": {{7 * 4096, 9 * 4096}, {100 * 4096, 101 * 4096}},
		"nvme.json": {{1234567 * 512, 1234568 * 512}},
		"good.json": nil,
	} {
		b, err := os.ReadFile("testdata/smart/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := read(string(b), Smart, 0, 1<<43); err != nil ||
			!slices.Equal(got.Ranges, want) {
			t.Errorf("%s: %v, %v", file, got, err)
		}
	}
	for text, where := range map[string]string{
		"":                        "list:1: ",
		"{}":                      "list: ",
		"[1]":                     "list:1: ",
		"{\n\"smartctl\": {},\n}": "list:3: ",
		`{"smartctl":{}}`:         "list: ", // no log

		"{\"smartctl\":{},\n\"ata_pending_defects_log\":{\"table\":\n[{\"lba\":-1}]}}": "list:3: ",

		`{"smartctl":{},"logical_block_size":7,"ata_pending_defects_log":{}}`:             "list: ",
		`{"smartctl":{},"scsi_pending_defects":{"table":[{"lba":17179869184}]}}`:          "list: ",
		`{"smartctl":{},"scsi_pending_defects":{"table":[{"lba":18446744073709551615}]}}`: "list: ",
	} {
		_, err := read(text, Smart, 0, 1<<43)
		wantError(t, text, where, err)
	}
}

const (
	// nvme-cli 2.3 of Debian 12: 0x before decimal digits
	nvmeText23 = "Number of LBA Status Descriptors(NLSD): 2\nCompletion Condition(CMPC): 2\n" +
		"\tCompleted due to having performed the action\n\tspecified in the Action Type field " +
		"over the\n\tnumber of logical blocks specified in the\n\tRange Length field\n" +
		"{ DSLBA: 0x0000000000000100, NLB: 0x00000002, Status: 0x00 }\n" +
		"{ DSLBA: 0x0000008589934592, NLB: 0x00000001, Status: 0x01 }\n"
	nvmeText210 = "Number of LBA Status Descriptors(NLSD): 3\nCompletion Condition(CMPC): 2\n" +
		"{ DSLBA: 0x00000000000064, NLB: 0x000002, Status: 0 }\n" +
		"{ DSLBA: 0x00000200000000, NLB: 0x000001, Status: 0x1 }\n" +
		"{ DSLBA: 0000000000000000, NLB: 0x000001, Status: 0x1 }\n"
	nvmeJSON210 = `{"Number of LBA Status Descriptors (NLSD)":1,"Completion Condition (CMPC)":2,
"cmpc-definition":"Completed the specified action over the number of LBAs specified",
"LSD entry 0":{"DSLBA":"0x0000000000000100","NLB":"0x00000002","status":"0x00"}}`
)

func TestNVMe(t *testing.T) {
	two := []Range{{100 * 512, 102 * 512}, {1 << 42, 1<<42 + 512}}
	for text, want := range map[string][]Range{
		nvmeText23:  two,
		nvmeText210: append([]Range{{0, 512}}, two...),
		nvmeJSON210: {{256 * 512, 258 * 512}},
		"Number of LBA Status Descriptors(NLSD): 0\n":     nil,
		`{"Number of LBA Status Descriptors (NLSD)":0}`:   nil,
		strings.ReplaceAll(nvmeJSON210, "0100", "01a0"):   {{416 * 512, 418 * 512}},
		strings.ReplaceAll(nvmeJSON210, "0000100", "008"): {{8 * 512, 10 * 512}},
	} {
		if got, err := read(text, NVMe, 0, 1<<43); err != nil || !slices.Equal(got.Ranges, want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for text, where := range map[string]string{
		"":        "list: ",
		"hello\n": "list: ",
		"{":       "list:1: ",
		"{}":      "list: ",

		"Number of LBA Status Descriptors(NLSD): 2\n" +
			"{ DSLBA: 0x0, NLB: 0x1, Status: 0x1 }\n": "list: ",

		"Number of LBA Status Descriptors(NLSD): 1\n{ DSLBA: what\n": "list:2: ",

		strings.Replace(nvmeText210, "0x00000200000000", "0x40000000000000", 1): "list:4: ",

		// nothing says in what base this is
		strings.Replace(nvmeJSON210, "Completed the", "Completed due to the", 1): "list: ",
		// what json-c makes of a member that is added to an array
		`{"Number of LBA Status Descriptors (NLSD)":1,"LSD entry 0":[]}`: "list: ",
	} {
		_, err := read(text, NVMe, 0, 1<<43)
		wantError(t, text, where, err)
	}
}

// TestBadFormat: what is no format is refused.
func TestBadFormat(t *testing.T) {
	_, err := read("", "xml", 0, 1<<40)
	wantError(t, "xml", "not a list", err)
}
