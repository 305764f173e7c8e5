package result

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"ublkremap/bench/fio"
	"ublkremap/bench/peer"
)

// Format is the version of the JSON document. A reader refuses others.
const Format = 1

// ErrFormat is returned for a document of another format.
var ErrFormat = errors.New("not results that this version can read")

// Results is everything that one run has measured.
type Results struct {
	Format  int       `json:"format"`
	Date    time.Time `json:"date"`
	Machine Machine   `json:"machine"`
	// Command repeats the run. Commit is that of the tree.
	Command string `json:"command"`
	Commit  string `json:"commit"`
	// Seed of the order in which devices take turns.
	Seed    uint64        `json:"seed"`
	Rounds  int           `json:"rounds"`
	Runtime time.Duration `json:"runtime_ns"` // of each job in each round
	Bytes   int64         `json:"bytes"`      // of each device that are used
	// Peers that were measured, in the order of columns, and what could not be, with the reason.
	Peers   []peer.Peer `json:"peers"`
	Missing []string    `json:"missing,omitempty"`

	Samples []Sample `json:"samples"`
	Idle    []Idle   `json:"idle,omitempty"`
	Heals   []Heals  `json:"heals,omitempty"`
}

// Machine is where it was measured.
type Machine struct {
	Kernel string `json:"kernel"`
	Guest  string `json:"guest,omitempty"` // as vmexec's -kernel; empty: none
	CPU    string `json:"cpu"`
	CPUs   int    `json:"cpus"`
	Memory int64  `json:"memory_bytes"`
	Fio    string `json:"fio"`
	Go     string `json:"go"`
}

// Sample is one job on one device in one round.
type Sample struct {
	Suite string `json:"suite"` // io or remaps
	Job   string `json:"job"`
	// Queues is the number of hardware queues that were asked for, and of fio's processes for
	// jobs that can use several; HardwareQueues what the kernel made.
	Queues         int    `json:"queues"`
	HardwareQueues int    `json:"hardware_queues"`
	Peer           string `json:"peer"`
	Round          int    `json:"round"` // from 1
	Turn           int    `json:"turn"`  // place in the round's order, from 1
	fio.Report
	// Server is what the device's server used while fio ran, also before the time that
	// counts, and Completed how many requests the device completed in that.
	Server    *peer.Usage `json:"server,omitempty"`
	Completed int64       `json:"completed"`
}

// Idle is what the server of a live device did while the device was not used.
type Idle struct {
	Peer    string     `json:"peer"`
	Queues  int        `json:"queues"`
	Seconds float64    `json:"seconds"`
	Server  peer.Usage `json:"server"`
	// Threads are those that were switched at all.
	Threads []peer.Thread `json:"threads,omitempty"`
}

// Heals are writes of 4 KiB that met a bad block, one after the other.
type Heals struct {
	Peer string `json:"peer"`
	// Healed and Plain are how long each write took, in nanoseconds: to a bad block,
	// and to a good one just before.
	Healed []int64 `json:"healed_ns"`
	Plain  []int64 `json:"plain_ns"`
}

// Write writes the document.
func (r *Results) Write(w io.Writer) error {
	r.Format = Format
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(r)
}

// Read reads a document that Write made.
func Read(rd io.Reader) (*Results, error) {
	var r Results
	if err := json.NewDecoder(rd).Decode(&r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if r.Format != Format {
		return nil, fmt.Errorf("%w: format %d, want %d", ErrFormat, r.Format, Format)
	}
	return &r, nil
}

// Peer returns the peer of a name.
func (r *Results) Peer(name string) (peer.Peer, bool) {
	for _, p := range r.Peers {
		if p.Name == name {
			return p, true
		}
	}
	return peer.Peer{}, false
}

// Case is what was measured on several devices: a job, and the number of queues.
type Case struct {
	Suite, Job string
	Queues     int
}

// Cases returns all that were measured, in the order of their first sample.
func (r *Results) Cases() []Case {
	var out []Case
	seen := map[Case]bool{}
	for _, s := range r.Samples {
		c := Case{s.Suite, s.Job, s.Queues}
		if !seen[c] {
			seen[c] = true
			out = append(out, c)
		}
	}
	return out
}

// Figure is a number of a sample.
type Figure func(Sample) float64

// The figures that tables and plots show. Latencies are in nanoseconds.
var (
	IOPS      Figure = func(s Sample) float64 { return s.IOPS }
	Bandwidth Figure = func(s Sample) float64 { return s.Bandwidth }
	P50       Figure = func(s Sample) float64 { return s.slowest().P50 }
	P99       Figure = func(s Sample) float64 { return s.slowest().P99 }
	P999      Figure = func(s Sample) float64 { return s.slowest().P999 }
)

// slowest is the latency of fsync where the job does it: that is what its users
// wait for.
func (s Sample) slowest() fio.Latency {
	if s.Sync != nil {
		return *s.Sync
	}
	return s.Latency
}

// Values returns a figure of a peer in all rounds.
func (r *Results) Values(c Case, peer string, f Figure) []float64 {
	var out []float64
	for _, s := range r.Samples {
		if (Case{s.Suite, s.Job, s.Queues}) == c && s.Peer == peer {
			out = append(out, f(s))
		}
	}
	return out
}

// Ratio compares one peer's IOPS with another one's: the median is the ratio of medians, lowest and
// highest are of single rounds. N is 0 if either was not measured.
func (r *Results) Ratio(c Case, peer, against string) Spread {
	other := map[int]float64{}
	var mine, others, ratios []float64
	for _, s := range r.Samples {
		if (Case{s.Suite, s.Job, s.Queues}) == c && s.Peer == against {
			other[s.Round] = s.IOPS
			others = append(others, s.IOPS)
		}
	}
	for _, s := range r.Samples {
		if (Case{s.Suite, s.Job, s.Queues}) == c && s.Peer == peer && other[s.Round] > 0 {
			mine = append(mine, s.IOPS)
			ratios = append(ratios, s.IOPS/other[s.Round])
		}
	}
	out := Of(ratios)
	out.Median = Quantile(mine, 0.5) / Quantile(others, 0.5)
	return out
}
