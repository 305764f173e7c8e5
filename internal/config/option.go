package config

import "cmp"

// Option is one setting: a key of the file and, under the same name, a flag.
type Option struct {
	Name  string
	Value Value
	// Default says, for people, what holds if nothing is set. If it is empty, that is the value
	// itself, as it was when the option was made.
	Default string
	Change  Change
	// NoFlag: the setting is a key only.
	NoFlag bool
	// Path: it is a path. In a file it begins with /, for nobody knows where a server is started.
	Path bool
	// Sample is a value that shows the form, where the default does not.
	Sample string
	// Help is one line, for --help and the manual page. More is what docs/CONFIG.md says besides.
	Help, More string
}

// Change says when a change of the file takes effect.
type Change uint8

const (
	// Reload: systemctl reload, or ublk-remap upgrade, while the device is in use.
	Reload Change = iota
	// Restart: the device has it from when it was made. It is stopped and started again.
	Restart
)

// String is the word of docs/CONFIG.md and of JSON.
func (c Change) String() string {
	if c == Restart {
		return "restart"
	}
	return "reload"
}

// DefaultText is what holds if nothing is set.
func (o *Option) DefaultText() string {
	if o.Default != "" {
		return o.Default
	}
	return o.Value.initial()
}

// Set reports whether the option has another value than its default.
func (o *Option) Set() bool { return o.Value.String() != o.Value.initial() }

// Flags are the options that are flags.
func Flags(options []Option) []Option {
	var all []Option
	for _, o := range options {
		if !o.NoFlag {
			all = append(all, o)
		}
	}
	return all
}

// Find returns the option of that name, nil if there is none.
func Find(options []Option, name string) *Option {
	for i := range options {
		if options[i].Name == name {
			return &options[i]
		}
	}
	return nil
}

// Example is a value as it stands in a file: the default, or one that shows the form.
func (o *Option) Example() string {
	text := cmp.Or(o.Sample, o.Value.initial())
	return literal(o.Value.Kind(), []string{text})
}
