package config

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// Problem is an error at one place of a file.
type Problem struct {
	Path         string
	Line, Column int    // counted from 1; 0: the whole file
	Key          string // empty if it is about no key
	Message      string
	// Err is ErrInvalid or ErrRefused.
	Err error
}

// Error is one line: FILE:LINE:COLUMN: message.
func (p *Problem) Error() string {
	if p.Line == 0 {
		return p.Path + ": " + p.Message
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.Path, p.Line, p.Column, p.Message)
}

// Unwrap returns what kind of problem it is.
func (p *Problem) Unwrap() error { return p.Err }

// At returns a Problem about a setting, an ErrInvalid.
func (f *File) At(s *Setting, format string, args ...any) *Problem {
	return &Problem{Path: f.Path, Line: s.Line, Column: s.Column, Key: s.Key, Err: ErrInvalid,
		Message: fmt.Sprintf(format, args...)}
}

// parse reads the text of a file into settings. The error is a *Problem.
func (f *File) parse(text []byte) error {
	if bytes.HasPrefix(text, []byte("\ufeff")) {
		return &Problem{Path: f.Path, Line: 1, Column: 1, Err: ErrInvalid, Message: "it begins " +
			"with a byte order mark (BOM), as some editors write one: save it as UTF-8 without"}
	}
	// The decoder finds text that is not TOML, and keys that come twice. The parser below it says
	// where keys and values are.
	values := map[string]any{}
	if err := toml.Unmarshal(text, &values); err != nil {
		p := &Problem{Path: f.Path, Err: ErrInvalid, Message: "this is not TOML: " + firstLine(err)}
		var at *toml.DecodeError
		if errors.As(err, &at) {
			p.Line, p.Column = at.Position()
			p.Key = strings.Join(at.Key(), ".")
		}
		return p
	}
	var p unstable.Parser
	p.Reset(text)
	for p.NextExpression() {
		e := p.Expression()
		var keys []string
		var at unstable.Position
		for k := e.Key(); k.Next(); {
			if keys == nil {
				at = p.Shape(k.Node().Raw).Start
			}
			keys = append(keys, string(k.Node().Data))
		}
		s := Setting{Key: strings.Join(keys, "."), Line: at.Line, Column: at.Column}
		switch {
		case e.Kind != unstable.KeyValue:
			return f.At(&s, "there is no table [%s]: keys are not in tables", s.Key)
		case len(keys) > 1:
			return f.At(&s, "there is no key %s with a point in it", s.Key)
		}
		if err := s.take(values[s.Key]); err != nil {
			return f.At(&s, "%s: %v", s.Key, err)
		}
		f.Settings = append(f.Settings, s)
	}
	return nil
}

// take keeps a value as text.
func (s *Setting) take(v any) error {
	switch v := v.(type) {
	case string:
		s.Kind, s.Texts = Text, []string{v}
	case int64:
		s.Kind, s.Texts = Number, []string{strconv.FormatInt(v, 10)}
	case bool:
		s.Kind, s.Texts = Switch, []string{strconv.FormatBool(v)}
	case []any:
		s.Kind, s.Texts = List, []string{}
		for _, item := range v {
			text, ok := item.(string)
			if !ok {
				return errors.New("the items of a list are texts, in quotes")
			}
			s.Texts = append(s.Texts, text)
		}
	default:
		return errors.New("want a text in quotes, a whole number, true, false, or a list of texts")
	}
	return nil
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(strings.TrimPrefix(err.Error(), "toml: "), "\n")
	return line
}

// Apply sets the options that the file names, except those that except names. The error joins a
// *Problem for each setting without an option, or with a value that its option does not take.
func (f *File) Apply(options []Option, except func(*Option) bool) error {
	if f == nil {
		return nil
	}
	var problems []error
	for i := range f.Settings {
		s := &f.Settings[i]
		o := Find(options, s.Key)
		if o == nil {
			problems = append(problems, f.At(s, "%s", f.unknown(s.Key, options)))
			continue
		}
		if except != nil && except(o) {
			continue
		}
		if err := o.set(s.Kind, s.Texts); err != nil {
			problems = append(problems, f.At(s, "%s: %v", s.Key, err))
		}
	}
	return errors.Join(problems...)
}

// set sets an option to the value in the file.
func (o *Option) set(kind Kind, texts []string) error {
	if kind != o.Value.Kind() {
		return errors.New("want " + o.form())
	}
	o.Value.reset()
	for _, text := range texts {
		if o.Path && !filepath.IsAbs(text) {
			return fmt.Errorf("%q: want a path that begins with /", text)
		}
		if err := o.Value.Set(text); err != nil {
			return fmt.Errorf("%q: want %s", text, o.form())
		}
	}
	return nil
}

// form names the form of the value that a key has.
func (o *Option) form() string {
	switch o.Value.Kind() {
	case Text:
		return o.Value.Want() + ", in quotes"
	case Number:
		return "a number without quotes, " + o.Value.Want()
	case List:
		return "a list, such as [\"…\"], of " + o.Value.Want()
	}
	return o.Value.Want() + ", without quotes"
}

// unknown says that the key does not exist, and which one may be meant.
func (f *File) unknown(key string, options []Option) string {
	best, at := len(key)/2+1, ""
	for _, o := range options {
		if d := levenshtein.ComputeDistance(strings.ToLower(strings.ReplaceAll(key, "_", "-")),
			o.Name); d < best {
			best, at = d, o.Name
		}
	}
	if at == "" {
		sample := "ublk-remap config sample"
		if f.Name == "" {
			sample += " --monitor"
		}
		return fmt.Sprintf("there is no key %q; all are shown by: %s", key, sample)
	}
	return fmt.Sprintf("there is no key %q; do you mean %s?", key, at)
}
