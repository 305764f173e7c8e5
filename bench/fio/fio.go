// Package fio runs fio on a block device and reads what it reports.
package fio

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Errors of this package, wrapped with what they are about.
var (
	// ErrNotBlock is returned for a path that is no block device: fio would make a regular file of
	// it and measure that.
	ErrNotBlock = errors.New("not a block device")
	// ErrReport is returned when fio's output is no report, or one of a job that failed.
	ErrReport = errors.New("fio gave no good report")
)

// Params are what a job file leaves open.
type Params struct {
	File    string        // the job file
	Device  string        // path of the block device
	Runtime time.Duration // what is measured; what goes before is not counted
	Jobs    int           // processes, if the file lets their number be chosen
	Size    int64         // bytes of the device, from its start, that are used
}

// Latency of requests, in nanoseconds.
type Latency struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
}

// Report is one run, summed up over its processes.
type Report struct {
	Requests  int64   `json:"requests"`
	IOPS      float64 `json:"iops"`
	Bandwidth float64 `json:"bytes_per_second"`
	// Latency from the request's submission to its completion.
	Latency Latency `json:"latency_ns"`
	// Sync is the latency of fsync, for jobs that do it.
	Sync *Latency `json:"sync_latency_ns,omitempty"`
	// User and System are what fio's own threads used, in percent of one CPU each.
	User   float64 `json:"fio_user_percent"`
	System float64 `json:"fio_system_percent"`
}

// slack is how much longer than its runtime a fio may take until it counts as
// hung.
const slack = 2 * time.Minute

// Run runs one job. The device is checked first.
func Run(ctx context.Context, p Params) (Report, error) {
	if st, err := os.Stat(p.Device); err != nil {
		return Report{}, err
	} else if st.Mode()&(os.ModeDevice|os.ModeCharDevice) != os.ModeDevice {
		return Report{}, fmt.Errorf("%s: %w", p.Device, ErrNotBlock)
	}
	ctx, cancel := context.WithTimeout(ctx, p.Runtime+slack)
	defer cancel()
	cmd := exec.CommandContext(ctx, "fio", "--output-format=json", "--eta=never",
		filepath.Base(p.File))
	cmd.Dir = filepath.Dir(p.File)
	cmd.Env = append(os.Environ(), "FILENAME="+p.Device, fmt.Sprintf("RUNTIME=%dms",
		p.Runtime.Milliseconds()),
		fmt.Sprintf("JOBS=%d", p.Jobs), fmt.Sprintf("SIZE=%d", p.Size))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// A request that never ends keeps even a killed fio.
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		return Report{}, fmt.Errorf("fio %s on %s: %w: %s", filepath.Base(p.File), p.Device, err,
			strings.TrimSpace(stderr.String()))
	}
	r, err := Parse(stdout.Bytes())
	if err != nil {
		return r, fmt.Errorf("fio %s on %s: %w", filepath.Base(p.File), p.Device, err)
	}
	return r, nil
}

type latency struct {
	Mean       float64 `json:"mean"`
	Percentile struct {
		P50  float64 `json:"50.000000"`
		P99  float64 `json:"99.000000"`
		P999 float64 `json:"99.900000"`
	} `json:"percentile"`
}

func (l latency) latency() Latency {
	return Latency{Mean: l.Mean, P50: l.Percentile.P50, P99: l.Percentile.P99,
		P999: l.Percentile.P999}
}

type side struct {
	Bandwidth float64 `json:"bw_bytes"`
	IOPS      float64 `json:"iops"`
	Requests  int64   `json:"total_ios"`
	Latency   latency `json:"lat_ns"`
}

// Parse reads fio's JSON report of one group of processes that all read or all
// write. Warnings may come before it.
func Parse(out []byte) (Report, error) {
	if i := bytes.IndexByte(out, '{'); i > 0 {
		out = out[i:]
	}
	var doc struct {
		Jobs []struct {
			Error       int64 `json:"error"`
			TotalErr    int64 `json:"total_err"`
			Read, Write side
			Sync        struct {
				Requests int64   `json:"total_ios"`
				Latency  latency `json:"lat_ns"`
			} `json:"sync"`
			User   float64 `json:"usr_cpu"`
			System float64 `json:"sys_cpu"`
		} `json:"jobs"`
	}
	if err := json.NewDecoder(bytes.NewReader(out)).Decode(&doc); err != nil {
		return Report{}, fmt.Errorf("%w: %w", ErrReport, err)
	}
	if len(doc.Jobs) != 1 {
		return Report{}, fmt.Errorf("%w: %d groups in it, want one", ErrReport, len(doc.Jobs))
	}
	j := doc.Jobs[0]
	s := j.Read
	if j.Write.Requests > 0 {
		s = j.Write
	}
	switch {
	case j.Error != 0 || j.TotalErr != 0:
		return Report{}, fmt.Errorf("%w: error %d, %d in all", ErrReport, j.Error, j.TotalErr)
	case j.Read.Requests > 0 && j.Write.Requests > 0:
		return Report{}, fmt.Errorf("%w: reads and writes are mixed", ErrReport)
	case s.Requests <= 0 || s.IOPS <= 0:
		return Report{}, fmt.Errorf("%w: nothing was done", ErrReport)
	}
	r := Report{Requests: s.Requests, IOPS: s.IOPS, Bandwidth: s.Bandwidth,
		Latency: s.Latency.latency(), User: j.User, System: j.System}
	if j.Sync.Requests > 0 {
		l := j.Sync.Latency.latency()
		r.Sync = &l
	}
	return r, nil
}
