package config

import "cmp"

// Option is one setting: a key of the file and, under the same name, a flag.
type Option struct {
	Name  string
	Value Value
	// Default is a text for people about the case that nothing is set. If it is empty, the default
	// is the value that the option had when it was made.
	Default string
	Change  Change
	// NoFlag says that the setting is a key only, and not a flag.
	NoFlag bool
	// Path says that the value is a path. In a file it must begin with /, because the working
	// directory of a server is not known.
	Path bool
	// Sample is a value that shows the form, if the default does not show it.
	Sample string
	// Help is one line, for --help and the manual page. More is what docs/CONFIG.md adds to that.
	Help, More string
}

// Change says when a change of the file takes effect.
type Change uint8

const (
	// Reload: a change takes effect with systemctl reload or ublk-remap upgrade, while the device
	// is in use.
	Reload Change = iota
	// Restart: the property is set when the device is made. So the device must be stopped and
	// started again.
	Restart
)

// String is the word that docs/CONFIG.md and the JSON use.
func (c Change) String() string {
	if c == Restart {
		return "restart"
	}
	return "reload"
}

// DefaultText says in words what the default is.
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

// Find returns the option of that name, or nil if there is none.
func Find(options []Option, name string) *Option {
	for i := range options {
		if options[i].Name == name {
			return &options[i]
		}
	}
	return nil
}

// Example is a value in the form that a file has: the default, or one that shows the form.
func (o *Option) Example() string {
	text := cmp.Or(o.Sample, o.Value.initial())
	return literal(o.Value.Kind(), []string{text})
}
