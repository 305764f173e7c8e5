package result

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"ublkremap/bench/fio"
	"ublkremap/bench/peer"
)

// sample makes results of two rounds of one job, by hand.
func sample() *Results {
	r := &Results{
		Format: Format, Date: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Command: "bin/bench",
		Commit: "abc", Seed: 7, Rounds: 2, Runtime: time.Second, Bytes: 1 << 20,
		Machine: Machine{Kernel: "7.3.4", Guest: "7.3", CPU: "a CPU", CPUs: 2, Memory: 1 << 30,
			Fio: "fio-3.33", Go: "go1.26"},
		Peers: []peer.Peer{
			{Name: "loop", Kind: peer.Loop}, {Name: "ublksrv", Kind: peer.Ublksrv},
			{Name: "ublksrv-z", Kind: peer.Ublksrv, Zero: true},
			{Name: "remap", Kind: peer.Remap}, {Name: "old", Kind: peer.Remap, Variant: true,
				Program: "/old", Flags: []string{"--x"}},
			{Name: "remaps-0", Kind: peer.Remap, Table: &peer.Table{First: 1, Every: 2}},
			{Name: "remaps-1M", Kind: peer.Remap, Table: &peer.Table{Remaps: 1e6, First: 1,
				Every: 2}},
			{Name: "every-100th", Kind: peer.Remap, Table: &peer.Table{Remaps: 327, Every: 100}},
		},
		Missing: []string{"linear with 1 queues: none"},
		Idle: []Idle{{Peer: "remap", Queues: 1, Seconds: 10, Server: peer.Usage{Voluntary: 5},
			Threads: []peer.Thread{{Name: "iou-wrk-1", Voluntary: 2}, {Name: "x", Voluntary: 3}}}},
		Heals: []Heals{{Peer: "remap", Healed: []int64{3000, 1000, 2000},
			Plain: []int64{10, 30, 20}}},
	}
	add := func(suite, job string, queues int, name string, iops ...float64) {
		for i, v := range iops {
			s := Sample{Suite: suite, Job: job, Queues: queues, HardwareQueues: min(queues, 2),
				Peer: name, Round: i + 1, Report: fio.Report{Requests: 1, IOPS: v,
					Latency: fio.Latency{P50: 1e9 / v}}}
			if strings.HasPrefix(name, "remap") {
				s.Server, s.Completed = &peer.Usage{User: 1, System: 2, Voluntary: 30,
					Involuntary: 4}, 1000
			}
			r.Samples = append(r.Samples, s)
		}
	}
	add("io", "randread-4k-d32", 4, "loop", 1000, 1100)
	add("io", "randread-4k-d32", 4, "ublksrv", 2000, 1000)
	add("io", "randread-4k-d32", 4, "ublksrv-z", 2000, 1000)
	add("io", "randread-4k-d32", 4, "remap", 1500, 1500)
	add("io", "randread-4k-d32", 4, "old", 750, 1500)
	add("remaps", "miss-randread-4k-d32", 1, "remaps-0", 100, 100)
	add("remaps", "miss-randread-4k-d32", 1, "remaps-1M", 98, 98)
	add("remaps", "randread-4k-d32", 1, "remaps-0", 100, 100)
	add("remaps", "randread-4k-d32", 1, "every-100th", 95, 95)
	return r
}

func TestRoundTrip(t *testing.T) {
	var b bytes.Buffer
	want := sample()
	if err := want.Write(&b); err != nil {
		t.Fatal(err)
	}
	got, err := Read(&b)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n got %+v\nwant %+v", err, got, want)
	}
}

// A program that writes and syncs waits for the sync.
func TestSyncLatency(t *testing.T) {
	s := Sample{Report: fio.Report{Latency: fio.Latency{P50: 1, P99: 2, P999: 3}}}
	if P50(s) != 1 || P99(s) != 2 || P999(s) != 3 {
		t.Errorf("without: %v %v %v", P50(s), P99(s), P999(s))
	}
	s.Sync = &fio.Latency{P50: 10, P99: 20, P999: 30}
	if P50(s) != 10 || P99(s) != 20 || P999(s) != 30 {
		t.Errorf("with: %v %v %v", P50(s), P99(s), P999(s))
	}
}

func TestReadRefuses(t *testing.T) {
	for _, text := range []string{"", "{", `{"format":0}`, `{"format":2}`, `[]`} {
		if r, err := Read(strings.NewReader(text)); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %+v, %v", text, r, err)
		}
	}
}

func TestRatio(t *testing.T) {
	r := sample()
	c := r.Cases()[0]
	// Medians are 1500 and 1500; the rounds have 0.75 and 1.5.
	if got, want := r.Ratio(c, "remap", "ublksrv"), (Spread{1, 0.75, 1.5, 2}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := r.Ratio(c, "remap", "nobody"); got.N != 0 {
		t.Errorf("against nobody: %+v", got)
	}
}

func TestComparisons(t *testing.T) {
	got := map[string]float64{}
	for _, c := range sample().Comparisons() {
		got[c.Case.Job+" "+c.Peer+" "+c.Against] = c.Target
	}
	want := map[string]float64{
		"randread-4k-d32 remap loop": 1.2, "randread-4k-d32 old loop": 1.2,
		"randread-4k-d32 remap ublksrv": 1, "randread-4k-d32 old ublksrv": 1, // never ublksrv-z
		"randread-4k-d32 old remap":               0,
		"miss-randread-4k-d32 remaps-1M remaps-0": 0.99,
		"randread-4k-d32 every-100th remaps-0":    0.9,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

func TestMarkdown(t *testing.T) {
	var b strings.Builder
	if err := sample().Markdown(&b, []string{"x.svg"}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Linux 7.3.4", "bin/bench", "* linear with 1 queues: none", "* old: `/old start … --x`",
		"| randread-4k-d32, 4 queues | remap | ublksrv | 1.00 (0.75–1.50) | ≥ 1.00 | met (2 " +
			"rounds; 5 are wanted) |",
		"| randread-4k-d32, 4 queues | old | ublksrv | 0.75 (0.38–1.50) | ≥ 1.00 | **missed** (2 " +
			"rounds; 5 are wanted) |",
		"| miss-randread-4k-d32 | remaps-1M | remaps-0 | 0.98 (0.98–0.98) | ≥ 0.99 | **missed** " +
			"(2 rounds; 5 are wanted) |",
		"| job | loop | ublksrv | ublksrv-z | remap | old |",
		"| randread-4k-d32, 4 queues | 1.05 (1.00–1.10) | 1.50 (1.00–2.00) | 1.50 (1.00–2.00) | " +
			"1.50 (1.50–1.50) | 1.12 (0.75–1.50) |",
		"| randread-4k-d32, 4 queues | remap | 1000.0 | 2000.0 | 0.030 | 0.004 |",
		"| remap | 1 | 10 | 0.50 | 0.00 | iou-wrk-1 2, x 3 |", "For 4 queues the kernel made 2",
		"| remap | a bad block | 3 | 2.00 | 2.80 | 2.98 | 3.00 |", "![x](x.svg)",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}
