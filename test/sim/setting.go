package sim

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Setting makes a run smaller than its seed says. It holds numbers by name. The names are those of
// knobs and switches, and two more: order chooses another order of events, and keep lists which
// actions of users, operators and the environment happen. All other actions are left out.
type Setting struct {
	values map[string]int
	keep   []int // sorted; nil: everything
}

// knobs set the numbers of a configuration. A value that is no smaller than the seed's changes
// nothing.
var knobs = map[string]func(c *config) *int{
	"rounds": func(c *config) *int { return &c.rounds },
	"steps":  func(c *config) *int { return &c.steps },
	"queues": func(c *config) *int { return &c.queues },
	"depth":  func(c *config) *int { return &c.depth },
	"units":  func(c *config) *int { return &c.maxUnits },
	"zero":   func(c *config) *int { return &c.zero },
	"spots":  func(c *config) *int { return &c.spots },
	"reach":  func(c *config) *int { return &c.reach },
	"faults": func(c *config) *int { return &c.faults },
	"path":   func(c *config) *int { return &c.rates.path },
	"busy":   func(c *config) *int { return &c.rates.resource },
	"short":  func(c *config) *int { return &c.rates.short },
	"flush":  func(c *config) *int { return &c.rates.flush },
}

// switches turn off what a configuration has.
var switches = map[string]func(c *config){
	"vanish":    func(c *config) { c.vanish = false },
	"shortages": func(c *config) { c.shortages = false },
	"trims":     func(c *config) { c.trims = false },
	"moves":     func(c *config) { c.moves = false },
	"lossy":     func(c *config) { c.lossy = false },
	"nofua":     func(c *config) { c.noFUA = [2]bool{} },
	"rearrange": func(c *config) { c.rearrange = false },
	"badspares": func(c *config) { c.sparesBad = false },
	"probes":    func(c *config) { c.probes = false },
	"table":     func(c *config) { c.table = false },
	"meta":      func(c *config) { c.meta = metaNone },
	"reader":    func(c *config) { c.reader = 0 },
	"pair":      func(c *config) { c.plan.SpareDeviceSize = 0 },
}

// ParseSetting reads "rounds=1,steps=80,vanish=0,keep=3+17+20": what Setting.String
// writes.
func ParseSetting(text string) (Setting, error) {
	s := Setting{values: map[string]int{}}
	if text == "" {
		return s, nil
	}
	for _, part := range strings.Split(text, ",") {
		name, value, _ := strings.Cut(part, "=")
		if name == "keep" {
			s.keep = []int{}
			for _, v := range strings.FieldsFunc(value, func(r rune) bool { return r == '+' }) {
				n, err := strconv.Atoi(v)
				if err != nil {
					return s, fmt.Errorf("setting %q: %w", part, err)
				}
				s.keep = append(s.keep, n)
			}
			slices.Sort(s.keep)
			continue
		}
		n, err := strconv.Atoi(value)
		if err != nil {
			return s, fmt.Errorf("setting %q: %w", part, err)
		}
		if _, ok := switches[name]; (!ok || n != 0) && knobs[name] == nil && name != "order" {
			return s, fmt.Errorf("setting %q: no such knob", part)
		}
		s.values[name] = n
	}
	return s, nil
}

func (s Setting) String() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(s.values)) {
		parts = append(parts, fmt.Sprintf("%s=%d", name, s.values[name]))
	}
	if s.keep != nil {
		var list []string
		for _, n := range s.keep {
			list = append(list, strconv.Itoa(n))
		}
		parts = append(parts, "keep="+strings.Join(list, "+"))
	}
	return strings.Join(parts, ",")
}

// with returns the setting with one more value.
func (s Setting) with(name string, n int) Setting {
	out := Setting{values: maps.Clone(s.values), keep: s.keep}
	if out.values == nil {
		out.values = map[string]int{}
	}
	out.values[name] = n
	return out
}

func (s Setting) keeps(action int) bool {
	if s.keep == nil {
		return true
	}
	_, ok := slices.BinarySearch(s.keep, action)
	return ok
}

func (s Setting) apply(c *config) {
	for name, n := range s.values {
		if name == "order" {
			continue
		}
		if off := switches[name]; off != nil {
			off(c)
			continue
		}
		p := knobs[name](c)
		*p = min(*p, n)
	}
	c.zero = min(c.zero, c.maxUnits)
}
