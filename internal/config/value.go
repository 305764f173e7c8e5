package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kind is the form that a value has in a file.
type Kind uint8

const (
	Text   Kind = iota // in quotes
	Number             // without quotes
	Switch             // true or false
	List               // of texts, in brackets
)

// Value holds the value of a setting. It is also a Value of package pflag.
type Value interface {
	// String is the value in the form that Set takes. It is empty if nothing is set.
	String() string
	// Set takes the text of a flag. The error says what is wanted. Set adds an item to a List. The
	// first item replaces the default.
	Set(text string) error
	// Type is what --help shows for the value.
	Type() string
	Kind() Kind
	// Want says what the value can be.
	Want() string

	initial() string
	reset()
}

// value is a Value of any type.
type value[T any] struct {
	to    *T
	first T
	kind  Kind
	typ   string
	want  string
	parse func(text string) (T, error)
	show  func(T) string
}

func newValue[T any](to *T, first T, v value[T]) *value[T] {
	v.to, v.first = to, first
	*to = first
	return &v
}

func (v *value[T]) String() string {
	if v.to == nil { // package pflag calls this for a zero value
		return ""
	}
	return v.show(*v.to)
}

func (v *value[T]) Set(text string) error {
	x, err := v.parse(text)
	if err != nil {
		return fmt.Errorf("want %s", v.want)
	}
	*v.to = x
	return nil
}

func (v *value[T]) Type() string    { return v.typ }
func (v *value[T]) Kind() Kind      { return v.kind }
func (v *value[T]) Want() string    { return v.want }
func (v *value[T]) initial() string { return v.show(v.first) }
func (v *value[T]) reset()          { *v.to = v.first }

// errRange: the value has the right form, but is out of range. Set says what the range is.
var errRange = errors.New("out of range")

func within[T cmp.Ordered](x, least, most T, err error) (T, error) {
	if err == nil && (x < least || x > most) {
		err = errRange
	}
	return x, err
}

// Int is a whole number from least to most. unset, which may lie outside of that range, means that
// nothing was chosen.
func Int(to *int, unset, least, most int) Value {
	return newValue(to, unset, value[int]{kind: Number, typ: "N", want: span(least, most),
		parse: func(text string) (int, error) {
			x, err := strconv.Atoi(text)
			return within(x, least, most, err)
		},
		show: func(x int) string {
			if x < least || x > most {
				return ""
			}
			return strconv.Itoa(x)
		},
	})
}

func span(least, most int) string {
	if most >= 1<<31-1 {
		return fmt.Sprintf("%d or more", least)
	}
	return fmt.Sprintf("%d to %d", least, most)
}

// Count is a whole number of at least 1.
func Count(to *uint64, first uint64) Value {
	return newValue(to, first, value[uint64]{kind: Number, typ: "N", want: "1 or more",
		parse: func(text string) (uint64, error) {
			x, err := strconv.ParseUint(text, 10, 63)
			return within(x, 1, 1<<63-1, err)
		},
		show: func(x uint64) string { return strconv.FormatUint(x, 10) },
	})
}

// Time is a time from least to most. want says what it can be.
func Time(to *time.Duration, first, least, most time.Duration, want string) Value {
	return newValue(to, first, value[time.Duration]{kind: Text, typ: "T", want: want,
		parse: func(text string) (time.Duration, error) {
			x, err := time.ParseDuration(text)
			return within(x, least, most, err)
		},
		show: func(x time.Duration) string { return x.String() },
	})
}

// Choice is one of several words.
func Choice(to *string, first string, words ...string) Value {
	last := len(words) - 1
	return newValue(to, first, value[string]{kind: Text, typ: strings.Join(words, "|"),
		want: strings.Join(words[:last], ", ") + " or " + words[last],
		parse: func(text string) (string, error) {
			if !slices.Contains(words, text) {
				return "", errRange
			}
			return text, nil
		},
		show: func(x string) string { return x },
	})
}

// Parsed is a text that check accepts. typ is what --help shows for it, want what it can be.
func Parsed(to *string, first, typ, want string, check func(text string) error) Value {
	return newValue(to, first, value[string]{kind: Text, typ: typ, want: want,
		parse: func(text string) (string, error) { return text, check(text) },
		show:  func(x string) string { return x },
	})
}

// OnOff is true or false. As a flag it needs no value.
func OnOff(to *bool) Value {
	return newValue(to, false, value[bool]{kind: Switch, typ: "bool", want: "true or false",
		parse: strconv.ParseBool,
		show:  strconv.FormatBool,
	})
}

// list is a Value of any number of texts.
type list struct {
	to    *[]string
	typ   string
	want  string
	check func(text string) error
	set   bool
}

// Texts is a list of texts that check accepts. As a flag it is repeated.
func Texts(to *[]string, typ, want string, check func(text string) error) Value {
	*to = nil
	return &list{to: to, typ: typ, want: want, check: check}
}

func (l *list) String() string {
	if l.to == nil {
		return ""
	}
	return strings.Join(*l.to, " ")
}

func (l *list) Set(text string) error {
	if l.check(text) != nil {
		return fmt.Errorf("want %s", l.want)
	}
	if !l.set {
		*l.to, l.set = nil, true
	}
	*l.to = append(*l.to, text)
	return nil
}

func (l *list) Type() string    { return l.typ }
func (l *list) Kind() Kind      { return List }
func (l *list) Want() string    { return l.want }
func (l *list) initial() string { return "" }
func (l *list) reset()          { *l.to, l.set = nil, false }
