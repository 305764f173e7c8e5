package page

import (
	"bytes"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/chromedp"
)

// shrink is by how much pictures are made smaller before they are kept and compared: the mean of
// so many by so many pixels. Letters that are drawn a little differently come out alike.
const shrink = 4

// Two pictures are alike if at most one pixel in a hundred differs by more than a tenth, and their
// heights by at most a twentieth: another version of a browser breaks lines where it likes.
const (
	mostApart  = 26
	mostOften  = 0.01
	mostTaller = 0.05
)

func small(b []byte) (*image.NRGBA, error) {
	full, err := png.Decode(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	r := full.Bounds()
	out := image.NewNRGBA(image.Rect(0, 0, r.Dx()/shrink, r.Dy()/shrink))
	for y := range out.Rect.Dy() {
		for x := range out.Rect.Dx() {
			var sum [3]uint32
			for i := range shrink * shrink {
				c := full.At(r.Min.X+x*shrink+i%shrink, r.Min.Y+y*shrink+i/shrink)
				red, green, blue, _ := c.RGBA()
				sum[0], sum[1], sum[2] = sum[0]+red>>8, sum[1]+green>>8, sum[2]+blue>>8
			}
			mean := func(n uint32) uint8 { return uint8(n / (shrink * shrink)) }
			out.SetNRGBA(x, y, color.NRGBA{mean(sum[0]), mean(sum[1]), mean(sum[2]), 255})
		}
	}
	return out, nil
}

// apart is by how much two pictures differ at a place: of 255, in the colour that differs most.
func apart(a, b color.NRGBA) int {
	d := func(x, y uint8) int { return max(int(x)-int(y), int(y)-int(x)) }
	return max(d(a.R, b.R), d(a.G, b.G), d(a.B, b.B))
}

// differ returns the share of places that differ between two pictures, of what both have.
func differ(a, b *image.NRGBA) float64 {
	both := a.Rect.Intersect(b.Rect)
	n := 0
	for y := range both.Dy() {
		for x := range both.Dx() {
			if apart(a.NRGBAAt(x, y), b.NRGBAAt(x, y)) > mostApart {
				n++
			}
		}
	}
	return float64(n) / float64(max(both.Dx()*both.Dy(), 1))
}

// looks compares a picture with that in testdata, which is kept small.
func looks(t *testing.T, name string, picture []byte) {
	t.Helper()
	got, err := small(picture)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	e := png.Encoder{CompressionLevel: png.BestCompression}
	if err := e.Encode(&b, got); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", name+".png")
	golden, err := png.Decode(bytes.NewReader(kept(t, file, b.Bytes())))
	if err != nil {
		t.Fatal(err)
	}
	want := image.NewNRGBA(golden.Bounds())
	draw.Draw(want, want.Rect, golden, image.Point{}, draw.Src)
	alike(t, name, file, got, want)
}

// looksAsInDocs compares a picture with docs/page.png, which is as large as it is.
func looksAsInDocs(t *testing.T, name string, picture []byte) {
	t.Helper()
	got, err := small(picture)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("..", "..", "docs", "page.png")
	want, err := small(kept(t, file, picture))
	if err != nil {
		t.Fatal(err)
	}
	alike(t, name, file, got, want)
}

// kept returns the picture of a file. With -update it puts one there first.
func kept(t *testing.T, file string, fresh []byte) []byte {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, fresh, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// alike fails the test if a picture, made small, does not look as that of a file.
func alike(t *testing.T, name, file string, got, want *image.NRGBA) {
	t.Helper()
	high, wide := float64(got.Rect.Dy())/float64(want.Rect.Dy()), got.Rect.Dx()
	if wide != want.Rect.Dx() || high > 1+mostTaller || high < 1-mostTaller {
		t.Errorf("%s is %v large, and was %v", name, got.Rect.Size(), want.Rect.Size())
	}
	if share := differ(got, want); share > mostOften {
		t.Errorf("%.2f %% of %s look different: compare %s with %s; -update if that is right",
			100*share, name, filepath.Join(shots, name+".png"), file)
	}
}

// TestDiffer: the comparison sees what a person sees.
func TestDiffer(t *testing.T) {
	blank := image.NewNRGBA(image.Rect(0, 0, 100, 100))
	dot := image.NewNRGBA(blank.Rect)
	for i := range 200 {
		dot.SetNRGBA(i%20, i/20, color.NRGBA{0, 40, 0, 0})
	}
	if got := differ(blank, dot); got != 0.02 || got <= mostOften {
		t.Errorf("200 of 10,000 places differ: %v", got)
	}
	if got := differ(dot, dot); got != 0 {
		t.Errorf("a picture differs from itself: %v", got)
	}
}

// TestLook: the pages and the map look as they did.
func TestLook(t *testing.T) {
	t.Parallel()
	url := serve(t, states()).URL
	w := open(t, url, 1200, 900)
	w.goTo("/")
	w.live()
	looks(t, "overview", w.shot("overview"))
	w.device("media")
	w.live()
	looks(t, "map", w.shotOf("map", "figure.surface"))
	// What comes with time, such as the rates, is not compared.
	looks(t, "figures", w.shotOf("figures", "#figures"))
	looks(t, "latency", w.shotOf("latency", "#latency"))
	w.shot("device")
	// The README's picture: what a window shows at once, with a name of a host that is nobody's.
	eval[bool](w, `Boolean(document.querySelector(".host").innerText = "storage-1")`)
	w.size(1200, 960, 1)
	w.rests()
	looksAsInDocs(t, "page", w.picture("page", chromedp.CaptureScreenshot()))
	w.media("screen", "prefers-color-scheme", "dark")
	w.rests()
	looks(t, "map-dark", w.shotOf("map-dark", "figure.surface"))
	w.shot("device-dark")
	w.size(390, 844, 1)
	w.rests()
	looks(t, "map-phone-dark", w.shotOf("map-phone-dark", "figure.surface"))
	w.media("screen")
	w.rests()
	w.shot("device-phone")
	w.goTo("/")
	w.shot("overview-phone")
	w.media("print")
	w.size(794, 1123, 1) // A4
	w.device("media")
	w.shot("device-print")
}
