package plot

import (
	"fmt"
	"image/color"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"ublkremap/bench/peer"
	"ublkremap/bench/result"
)

// Colour-blind people can tell these colours apart (Okabe and Ito, Color Universal Design).
var (
	grey       = color.RGBA{0x88, 0x88, 0x88, 0xff}
	skyBlue    = color.RGBA{0x56, 0xb4, 0xe9, 0xff}
	green      = color.RGBA{0x00, 0x9e, 0x73, 0xff}
	orange     = color.RGBA{0xe6, 0x9f, 0x00, 0xff}
	vermillion = color.RGBA{0xd5, 0x5e, 0x00, 0xff}
	blue       = color.RGBA{0x00, 0x72, 0xb2, 0xff}
	purple     = color.RGBA{0xcc, 0x79, 0xa7, 0xff}
	black      = color.RGBA{0x00, 0x00, 0x00, 0xff}
)

// further are for what has no colour of its own: variants.
var further = []color.RGBA{blue, purple, black}

// look is how a line is drawn.
type look struct {
	color  color.RGBA
	dashed bool
}

// looks gives each device its look. Copying and zero copy of a variant share a colour.
func looks(r *result.Results) map[string]look {
	out := map[string]look{}
	own := map[peer.Kind]color.RGBA{peer.Raw: grey, peer.Loop: skyBlue, peer.Linear: green,
		peer.Ublksrv: orange, peer.Remap: vermillion}
	variants := map[string]color.RGBA{}
	for _, p := range r.Peers {
		c := own[p.Kind]
		if p.Variant {
			name := p.Name
			if p.Zero && len(name) > 2 && name[len(name)-2:] == "-z" {
				name = name[:len(name)-2]
			}
			if _, known := variants[name]; !known {
				variants[name] = further[len(variants)%len(further)]
			}
			c = variants[name]
		}
		out[p.Name] = look{c, p.Zero}
	}
	return out
}

func (l look) line() draw.LineStyle {
	s := draw.LineStyle{Color: l.color, Width: 1.6}
	if l.dashed {
		s.Dashes = []vg.Length{vg.Points(5), vg.Points(3)}
	}
	return s
}

// series are points with a spread each.
type series struct {
	x []float64
	y []result.Spread
}

func (s series) Len() int                { return len(s.x) }
func (s series) XY(i int) (x, y float64) { return s.x[i], s.y[i].Median }
func (s series) YError(i int) (l, h float64) {
	return s.y[i].Median - s.y[i].Min, s.y[i].Max - s.y[i].Median
}

// add draws a series and names it in the legend, if name is not empty.
func (p *picture) add(q *plot.Plot, name string, l look, s series) error {
	if s.Len() == 0 {
		return nil
	}
	line, points, err := plotter.NewLinePoints(s)
	if err != nil {
		return err
	}
	line.LineStyle = l.line()
	points.GlyphStyle = draw.GlyphStyle{Color: l.color, Radius: 2.2, Shape: draw.CircleGlyph{}}
	bars, err := plotter.NewYErrorBars(s)
	if err != nil {
		return err
	}
	bars.LineStyle = draw.LineStyle{Color: l.color, Width: 0.6}
	bars.CapWidth = 4
	q.Add(bars, line, points)
	if name != "" {
		p.named(name, line, points)
	}
	return nil
}

// categories puts names at 0, 1, 2, … of the axis.
func categories(q *plot.Plot, names []string) {
	ticks := make([]plot.Tick, len(names))
	for i, n := range names {
		ticks[i] = plot.Tick{Value: float64(i), Label: n}
	}
	q.X.Tick.Marker = plot.ConstantTicks(ticks)
	q.X.Min, q.X.Max = -0.3, float64(len(names))-0.7
}

// horizontal draws lines across the plot at its ticks, behind everything else.
func horizontal(q *plot.Plot) {
	g := plotter.NewGrid()
	g.Vertical.Width = 0
	g.Horizontal = draw.LineStyle{Color: color.Gray{0xe0}, Width: 0.5}
	q.Add(g)
}

// fromZero makes an axis that hides nothing: it begins at 0 and ends above max.
func fromZero(q *plot.Plot, max float64) {
	q.Y.Min, q.Y.Max, q.Y.Tick.Marker = 0, max*1.05, roundTicks{}
}

// roundTicks are five to ten multiples of 1, 2 or 5 times a power of ten.
type roundTicks struct{}

func (roundTicks) Ticks(min, max float64) []plot.Tick {
	step := math.Pow(10, math.Floor(math.Log10((max-min)/5)))
	for _, m := range []float64{2, 2.5, 2} {
		if (max-min)/(step*m) >= 5 {
			step *= m
		}
	}
	var out []plot.Tick
	for i := math.Ceil(min / step); i*step <= max; i++ {
		out = append(out, plot.Tick{Value: i * step, Label: fmt.Sprintf("%.4g", i*step)})
	}
	return out
}

// apart is where in its category the i-th of n devices is drawn, so that bars do
// not lie on each other.
func apart(i, n int) float64 { return (float64(i) - float64(n-1)/2) * 0.3 / float64(n) }

// logTicks are 1, 2 and 5 of each power of ten, with plain numbers.
type logTicks struct{}

func (logTicks) Ticks(min, max float64) []plot.Tick {
	var out []plot.Tick
	for e := math.Floor(math.Log10(min)); e <= math.Ceil(math.Log10(max)); e++ {
		for _, m := range []float64{1, 2, 5} {
			if v := m * math.Pow(10, e); v >= min && v <= max {
				out = append(out, plot.Tick{Value: v, Label: fmt.Sprintf("%g", v)})
			}
		}
	}
	return out
}

// logarithmic makes a logarithmic axis for values of this range.
func logarithmic(a *plot.Axis, min, max float64) {
	a.Scale, a.Tick.Marker = plot.LogScale{}, logTicks{}
	a.Min, a.Max = min*0.8, max*1.25
}
