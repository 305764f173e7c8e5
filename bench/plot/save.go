package plot

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"

	"ublkremap/bench/result"
)

// The pictures' measures. Panels lie side by side; the legend is to the right of them.
const (
	panelWidth = 13 * vg.Centimeter
	tileWidth  = 8.5 * vg.Centimeter // of each of several panels
	height     = 9 * vg.Centimeter
	thumbnail  = 0.9 * vg.Centimeter // in the legend
	margin     = 0.3 * vg.Centimeter
	dpi        = 140
)

// picture is one or several panels that share a legend.
type picture struct {
	name   string // of the file, without its kind
	panels []*plot.Plot
	legend plot.Legend
	widest vg.Length // of the names in the legend
}

func newPicture(name string) *picture {
	p := &picture{name: name, legend: plot.NewLegend()}
	p.legend.Top, p.legend.Left = true, true
	p.legend.TextStyle.Font = sans(9)
	p.legend.ThumbnailWidth = thumbnail
	p.legend.Padding = 2 * vg.Millimeter
	return p
}

func (p *picture) panel(title, x, y string) *plot.Plot {
	q := plot.New()
	q.Title.Text, q.X.Label.Text, q.Y.Label.Text = title, x, y
	q.Title.Padding = 2 * vg.Millimeter
	q.Title.TextStyle.Font = sans(11)
	for _, a := range []*plot.Axis{&q.X, &q.Y} {
		a.Label.TextStyle.Font, a.Tick.Label.Font = sans(10), sans(9)
	}
	p.panels = append(p.panels, q)
	return q
}

// sans is a font that is embedded in the program, of that many points.
func sans(points vg.Length) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: points}
}

// named adds an entry to the legend.
func (p *picture) named(name string, thumbs ...plot.Thumbnailer) {
	p.legend.Add(name, thumbs...)
	p.widest = max(p.widest, p.legend.TextStyle.Width(name))
}

// legendWidth is what the legend takes, with some room to its left.
func (p *picture) legendWidth() vg.Length { return p.widest + thumbnail + 2*margin }

func (p *picture) size() (w, h vg.Length) {
	w = panelWidth
	if n := len(p.panels); n > 1 {
		w = vg.Length(n) * tileWidth
	}
	return w + p.legendWidth() + 2*margin, height + 2*margin
}

func (p *picture) draw(c draw.Canvas) {
	inner := draw.Crop(c, margin, -margin, margin, -margin)
	width := inner.Max.X - inner.Min.X - p.legendWidth()
	tiles := draw.Tiles{Rows: 1, Cols: len(p.panels), PadX: margin}
	// The panels' axes are of the same height, however large their labels are.
	parts := plot.Align([][]*plot.Plot{p.panels}, tiles, draw.Crop(inner, 0, -p.legendWidth(), 0,
		0))
	for i, q := range p.panels {
		q.Draw(parts[0][i])
	}
	p.legend.Draw(draw.Crop(inner, width+margin, 0, 0, -0.8*vg.Centimeter))
}

// writeTo draws with a back end into a file.
func (p *picture) writeTo(path string) error {
	w, h := p.size()
	var c interface {
		vg.CanvasSizer
		io.WriterTo
	}
	switch filepath.Ext(path) {
	case ".png":
		c = vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(w, h), vgimg.UseDPI(dpi))}
	case ".svg":
		c = vgsvg.New(w, h)
	default:
		return fmt.Errorf("%s: %w", path, errors.ErrUnsupported)
	}
	p.draw(draw.New(c))
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = c.WriteTo(f)
	return errors.Join(err, f.Close())
}

// Save writes the pictures of all that was measured to a directory, each as
// NAME.png and NAME.svg, and returns the names.
func Save(r *result.Results, dir string) ([]string, error) {
	var all []*picture
	for _, drawn := range []func(*result.Results) ([]*picture, error){depths, latencies, sequential,
		remaps, heals} {
		some, err := drawn(r)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	var names []string
	for _, p := range all {
		for _, ext := range []string{".png", ".svg"} {
			if err := p.writeTo(filepath.Join(dir, p.name+ext)); err != nil {
				return names, fmt.Errorf("plot %s%s: %w", p.name, ext, err)
			}
		}
		names = append(names, p.name)
	}
	return names, nil
}
