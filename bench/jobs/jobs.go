// Package jobs has the fio job files that devices are measured with. They are
// plain files, so that anybody can run one by hand:
//
//	FILENAME=/dev/ublkb0 RUNTIME=2s JOBS=1 SIZE=128m fio bench/jobs/randread-4k-d32.fio
//
// Test with -b first that FILENAME is a block device.
package jobs

import (
	"bufio"
	"bytes"
	"cmp"
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

//go:embed *.fio common.inc
var files embed.FS

// ErrFile is returned for a job file that is not as the others.
var ErrFile = errors.New("not a job file of this collection")

// Job is one job file.
type Job struct {
	Name      string // of the file, without .fio
	Pattern   string // fio's rw
	BlockSize int64  // bytes
	Depth     int    // requests in flight, of each process
	// Parallel says that several processes can do it at once.
	Parallel bool
	// Miss says that it asks for every other block only, so that the ones between can be
	// remapped without any request meeting one.
	Miss bool
	// Sync says that each write is followed by an fsync.
	Sync bool
}

// Random says whether the places are random.
func (j Job) Random() bool { return strings.HasPrefix(j.Pattern, "rand") }

// All returns the jobs in the order in which they are shown: by pattern, block
// size and depth.
func All() ([]Job, error) {
	names, err := files.ReadDir(".")
	if err != nil {
		return nil, err
	}
	var out []Job
	for _, e := range names {
		name, ok := strings.CutSuffix(e.Name(), ".fio")
		if !ok {
			continue
		}
		text, err := files.ReadFile(e.Name())
		if err != nil {
			return nil, err
		}
		j, err := parse(name, text)
		if err != nil {
			return nil, err
		}
		out = append(out, j)
	}
	class := func(j Job) int {
		switch {
		case j.Sync:
			return 2
		case j.Random():
			return 0
		default:
			return 1
		}
	}
	slices.SortStableFunc(out, func(a, b Job) int {
		return cmp.Or(cmp.Compare(class(a), class(b)), cmp.Compare(a.Pattern, b.Pattern),
			cmp.Compare(a.BlockSize, b.BlockSize), cmp.Compare(a.Depth, b.Depth))
	})
	return out, nil
}

// parse reads what a person who compares results must know. The only section besides
// [global] has the file's name.
func parse(name string, text []byte) (Job, error) {
	j := Job{Name: name}
	bad := func(format string, args ...any) (Job, error) {
		return j, fmt.Errorf("%s.fio: %w: %s", name, ErrFile, fmt.Sprintf(format, args...))
	}
	section, included := "", false
	for sc := bufio.NewScanner(bytes.NewReader(text)); sc.Scan(); {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == ';' || line[0] == '#' {
			continue
		}
		if s, ok := strings.CutPrefix(line, "["); ok {
			section = strings.TrimSuffix(s, "]")
			if section != "global" && section != name {
				return bad("section %s", section)
			}
			continue
		}
		if line == "include common.inc" && section == "global" {
			included = true
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || section != name {
			return bad("%q in section %q", line, section)
		}
		if err := j.set(key, value); err != nil {
			return bad("%s: %v", line, err)
		}
	}
	switch {
	case !included:
		return bad("common.inc is not included")
	case !slices.Contains([]string{"read", "write", "randread", "randwrite"}, j.Pattern):
		return bad("rw=%s", j.Pattern)
	case j.BlockSize < 512 || j.Depth < 1:
		return bad("block size %d, depth %d", j.BlockSize, j.Depth)
	}
	return j, nil
}

// set reads one option.
func (j *Job) set(key, value string) (err error) {
	switch key {
	case "rw":
		j.Pattern = value
	case "bs":
		j.BlockSize, err = parseBytes(value)
	case "iodepth":
		j.Depth, err = strconv.Atoi(value)
	case "numjobs":
		j.Parallel = value == "${JOBS}"
	case "blockalign":
		var align int64
		align, err = parseBytes(value)
		j.Miss = align == 2*j.BlockSize
	case "ioengine":
		if value != "psync" {
			return errors.New("the engine of all others is in common.inc")
		}
	case "fsync":
		j.Sync = value == "1"
	default:
		return errors.New("the option belongs into common.inc")
	}
	return err
}

// parseBytes reads fio's sizes: 4k, 1m.
func parseBytes(s string) (int64, error) {
	shift := 0
	switch {
	case strings.HasSuffix(s, "k"):
		shift = 10
	case strings.HasSuffix(s, "m"):
		shift = 20
	}
	n, err := strconv.ParseInt(strings.TrimRight(s, "km"), 10, 32)
	return n << shift, err
}

// Extract writes the files to a directory, for fio.
func Extract(dir string) error {
	names, err := files.ReadDir(".")
	if err != nil {
		return err
	}
	for _, e := range names {
		text, err := files.ReadFile(e.Name())
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, e.Name()), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
