package lists

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// nvmeLine is a descriptor as nvme get-lba-status prints it (nvme-print-stdout.c).
var nvmeLine = regexp.MustCompile(
	`^\{ *DSLBA: *([0-9a-zA-Z]+), *NLB: *([0-9a-zA-Z]+), *Status: *([0-9a-zA-Z]+) *\}$`)

// nvmeCount is the line that says how many descriptors there are.
var nvmeCount = regexp.MustCompile(`^Number of LBA Status Descriptors *\(NLSD\): *([0-9]+)$`)

// nvme reads what nvme get-lba-status printed, in either of its forms.
func (r *reader) nvme(in io.Reader) error {
	b, err := readAll(in)
	if err != nil {
		return err
	}
	r.Block = cmp.Or(r.Block, 512)
	if trimmed := bytes.TrimSpace(b); len(trimmed) > 0 && trimmed[0] == '{' &&
		!bytes.Contains(b, []byte("DSLBA:")) {
		return r.nvmeJSON(b)
	}
	said, found := uint64(0), uint64(0)
	seen := false
	if err := r.lines(bytes.NewReader(b), func(text string) error {
		if m := nvmeCount.FindStringSubmatch(text); m != nil {
			n, err := strconv.ParseUint(m[1], 10, 64)
			if err != nil {
				return fmt.Errorf("%w: %.60q", ErrList, text)
			}
			seen, said = true, said+n
			return nil
		}
		if !strings.Contains(text, "DSLBA") {
			return nil // how the command was completed, in words
		}
		m := nvmeLine.FindStringSubmatch(text)
		if m == nil {
			return fmt.Errorf("%w: %.60q; want { DSLBA: …, NLB: …, Status: … }", ErrList, text)
		}
		found++
		first, ok := nvmeTextLBA(m[1])
		count, also := unsigned(m[2])
		if !ok || !also {
			return fmt.Errorf("%w: %.60q", ErrList, text)
		}
		return r.lba(first, max(count, 1))
	}); err != nil {
		return err
	}
	if !seen {
		return fmt.Errorf("%w: it is not what nvme get-lba-status prints", ErrList)
	}
	return nvmeWhole(said, found)
}

// nvmeWhole checks that all descriptors are there.
func nvmeWhole(said, found uint64) error {
	if said != found {
		return fmt.Errorf("%w: it has %d LBA status descriptors, and says that there are %d; some "+
			"versions of nvme leave them out of their JSON: save its text instead", ErrList, found,
			said)
	}
	return nil
}

// nvmeTextLBA reads a first block. Until version 2.9 nvme put 0x before 16 decimal digits (commit
// 7b4b50ff of nvme-cli changed that). Since then the 0x is one of 16 characters: 14 digits follow
// it, and 0 has no 0x.
func nvmeTextLBA(text string) (uint64, bool) {
	if digits, ok := strings.CutPrefix(text, "0x"); ok && len(digits) < 16 {
		n, err := strconv.ParseUint(digits, 16, 64)
		return n, err == nil
	} else if n, err := strconv.ParseUint(digits, 10, 64); err == nil {
		return n, true
	}
	return 0, false
}

// nvmeDescriptor is a descriptor in JSON; nvme 2.7 called the last one Status.
type nvmeDescriptor struct {
	DSLBA *string `json:"DSLBA"`
	NLB   *string `json:"NLB"`
}

// nvmeJSON reads the JSON of nvme get-lba-status: an element for each descriptor.
func (r *reader) nvmeJSON(b []byte) error {
	var d map[string]json.RawMessage
	if err := r.decode(b, &d); err != nil {
		return err
	}
	var said, found uint64
	rawSaid, seen := d["Number of LBA Status Descriptors (NLSD)"]
	if !seen || json.Unmarshal(rawSaid, &said) != nil {
		return fmt.Errorf("%w: it is JSON, but not that of nvme get-lba-status", ErrList)
	}
	var all []nvmeDescriptor
	for key, raw := range d {
		if !strings.HasPrefix(key, "LSD entry ") {
			continue
		}
		var one nvmeDescriptor
		var several []nvmeDescriptor
		if json.Unmarshal(raw, &one) == nil {
			several = append(several, one)
		} else if json.Unmarshal(raw, &several) != nil {
			return fmt.Errorf("%w: %.40q is no LBA status descriptor", ErrList, key)
		}
		for _, e := range several {
			if e.DSLBA == nil || e.NLB == nil {
				return fmt.Errorf("%w: %.40q is no LBA status descriptor", ErrList, key)
			}
			all = append(all, e)
			found++
		}
	}
	if err := nvmeWhole(said, found); err != nil {
		return err
	}
	return r.nvmeDescriptors(all, d["cmpc-definition"])
}

// nvmeDescriptors adds descriptors of a JSON document. Before version 2.10 nvme put 0x before
// decimal digits in JSON too. Its words for the completion condition were others then. Without
// them, a letter among the digits shows that they are hexadecimal; else nothing does.
func (r *reader) nvmeDescriptors(all []nvmeDescriptor, words json.RawMessage) error {
	sure := len(words) > 0 && !bytes.Contains(words, []byte("Completed due to"))
	for _, e := range all {
		digits := strings.TrimPrefix(*e.DSLBA, "0x")
		sure = sure || strings.ContainsAny(digits, "abcdefABCDEF") ||
			strings.Trim(digits, "0") == "" || len(strings.TrimLeft(digits, "0")) == 1
	}
	for _, e := range all {
		first, err := strconv.ParseUint(strings.TrimPrefix(*e.DSLBA, "0x"), 16, 64)
		count, ok := unsigned(*e.NLB)
		switch {
		case err != nil || !ok:
			return fmt.Errorf("%w: DSLBA %.20q, NLB %.20q", ErrList, *e.DSLBA, *e.NLB)
		case !sure:
			return fmt.Errorf("%w: DSLBA %.20q may be decimal or hexadecimal: nvme before version "+
				"2.10 puts 0x before decimal digits; save its text instead", ErrList, *e.DSLBA)
		}
		if err := r.lba(first, max(count, 1)); err != nil {
			return err
		}
	}
	return nil
}
