package plot

import (
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ublkremap/bench/fio"
	"ublkremap/bench/jobs"
	"ublkremap/bench/peer"
	"ublkremap/bench/result"
)

func results(t *testing.T) *result.Results {
	t.Helper()
	all, err := jobs.All()
	if err != nil {
		t.Fatal(err)
	}
	r := &result.Results{Peers: []peer.Peer{
		{Name: "raw", Kind: peer.Raw}, {Name: "ublksrv", Kind: peer.Ublksrv},
		{Name: "remap", Kind: peer.Remap}, {Name: "remap-z", Kind: peer.Remap, Zero: true},
		{Name: "poll", Kind: peer.Remap, Variant: true}, {Name: "poll-z", Kind: peer.Remap,
			Zero: true, Variant: true}, {Name: "never", Kind: peer.Loop},
		{Name: "remaps-0", Kind: peer.Remap, Table: &peer.Table{First: 1, Every: 2}},
		{Name: "remaps-1k", Kind: peer.Remap, Table: &peer.Table{Remaps: 1000, First: 1, Every: 2}},
		{Name: "every-100th", Kind: peer.Remap, Table: &peer.Table{Remaps: 10, Every: 100}},
	}}
	for round := 1; round <= 3; round++ {
		for i, p := range r.Peers {
			for _, j := range all {
				s := result.Sample{Suite: "io", Job: j.Name, Queues: 1, Peer: p.Name, Round: round}
				if p.Table != nil {
					s.Suite = "remaps"
				}
				if p.Name == "never" || j.Miss != (p.Table != nil) {
					continue
				}
				v := float64(1000*(i+1) + 10*round + j.Depth)
				s.Report = fio.Report{IOPS: v, Bandwidth: v * 4096,
					Latency: fio.Latency{Mean: 1e9 / v, P50: 1e9 / v, P99: 3e9 / v, P999: 1e10 / v}}
				r.Samples = append(r.Samples, s)
			}
		}
	}
	r.Heals = []result.Heals{{Peer: "remap", Healed: []int64{900_000, 1_100_000},
		Plain: []int64{20_000, 30_000}}}
	return r
}

func TestSave(t *testing.T) {
	dir := t.TempDir()
	names, err := Save(results(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"iops-randread-4k-q1", "iops-randwrite-4k-q1", "latency-randread-4k-q1",
		"latency-randwrite-4k-q1", "bandwidth-sequential", "remaps-q1", "heals"}
	if !slices.Equal(names, want) {
		t.Errorf("drew %v, want %v", names, want)
	}
	for _, name := range names {
		f, err := os.Open(filepath.Join(dir, name+".png"))
		if err != nil {
			t.Fatal(err)
		}
		img, err := png.Decode(f)
		if err != nil {
			t.Fatalf("%s.png: %v", name, err)
		}
		_ = f.Close()
		colors := map[[3]uint32]bool{}
		for y := range img.Bounds().Dy() {
			for x := 0; x < img.Bounds().Dx(); x += 3 {
				r, g, b, _ := img.At(x, y).RGBA()
				colors[[3]uint32{r >> 8, g >> 8, b >> 8}] = true
			}
		}
		// White, black, and the colour of ublk-remap.
		if !colors[[3]uint32{255, 255, 255}] || !colors[[3]uint32{}] ||
			!colors[[3]uint32{0xd5, 0x5e, 0}] {
			t.Errorf("%s.png, %v, lacks colours", name, img.Bounds())
		}
		svg, err := os.ReadFile(filepath.Join(dir, name+".svg"))
		if err != nil || !strings.Contains(string(svg), "</svg>") {
			t.Errorf("%s.svg: %v, %d bytes", name, err, len(svg))
		}
		if strings.Contains(string(svg), "never") {
			t.Errorf("%s.svg names a device that was not measured", name)
		}
	}
}

// A run that left something out draws the rest.
func TestSaveParts(t *testing.T) {
	r := results(t)
	r.Heals = nil
	r.Samples = slices.DeleteFunc(r.Samples,
		func(s result.Sample) bool { return s.Job != "randread-4k-d32" || s.Peer != "remap" })
	names, err := Save(r, t.TempDir())
	if want := []string{"iops-randread-4k-q1", "latency-randread-4k-q1"}; err != nil ||
		!slices.Equal(names, want) {
		t.Errorf("drew %v, want %v (%v)", names, want, err)
	}
	if names, err = Save(&result.Results{}, t.TempDir()); err != nil || len(names) != 0 {
		t.Errorf("of nothing drew %v (%v)", names, err)
	}
}

func TestRoundTicks(t *testing.T) {
	for _, tc := range [][2]float64{{0, 1}, {0, 126}, {0.4, 1.9}, {0, 0.003}, {0, 49.9}} {
		n := len(roundTicks{}.Ticks(tc[0], tc[1]))
		if n < 5 || n > 14 {
			t.Errorf("%v has %d ticks", tc, n)
		}
	}
}

func TestLooks(t *testing.T) {
	l := looks(results(t))
	if l["poll"].color != l["poll-z"].color || l["poll"].dashed || !l["poll-z"].dashed ||
		l["poll"].color == l["remap"].color {
		t.Errorf("%+v", l)
	}
}
