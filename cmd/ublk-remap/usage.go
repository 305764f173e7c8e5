package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ublkremap/cmd/ublk-remap/internal/exit"
)

// usageError is a command line that makes no sense. It also says where the help is.
type usageError struct {
	err  error
	help string
}

// Error says what is wrong and names the help.
func (e *usageError) Error() string { return e.err.Error() + "; see: " + e.help }

// Unwrap makes the error an exit.ErrUsage as well.
func (e *usageError) Unwrap() []error { return []error{e.err, exit.ErrUsage} }

// flagError says what a flag's value should look like, in words of the command line.
func flagError(_ *cobra.Command, err error) error {
	var bad *pflag.InvalidValueError
	if !errors.As(err, &bad) {
		return err
	}
	want := bad.Unwrap().Error()
	switch bad.GetFlag().Value.Type() {
	case "duration":
		want = "want a time such as 30s, 10m or 168h, not beyond 290 years"
	case "int", "uint", "uint8", "uint16", "uint32", "uint64", "int64":
		want = "want a whole number, in the range of the flag"
	case "bool":
		want = "want true or false"
	}
	return fmt.Errorf("--%s %q: %s", bad.GetFlag().Name, bad.GetValue(), want)
}

// refuseEmpty refuses flags that were given with an empty value, of whatever verb, as a script does
// whose variable is not set. To many flags such a value is the same as none, so the verb would do
// something else than was meant: serve everybody, or take no notice of a list of bad blocks.
func refuseEmpty(flags *pflag.FlagSet) (err error) {
	flags.Visit(func(f *pflag.Flag) {
		if err == nil && emptyValue(f.Value) {
			err = fmt.Errorf("--%s \"\": it is empty, as a variable gives it that is not set; "+
				"give it a value, or leave the flag out", f.Name)
		}
	})
	return err
}

// emptyValue reports whether the value, or an item of a list, is empty.
func emptyValue(v pflag.Value) bool {
	list, ok := v.(interface{ GetSlice() []string })
	if !ok {
		return v.String() == ""
	}
	items := list.GetSlice()
	return len(items) == 0 || slices.Contains(items, "")
}

// anyNumber is for verbs that take any number of arguments.
const anyNumber = -1

// arguments checks how many arguments a verb has, and that none is empty. The error names the
// arguments of Use.
func arguments(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		names := strings.Fields(cmd.Use)[1:]
		verb := strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
		switch {
		case len(args) < least:
			missing := names[len(args):least]
			is := "is"
			if len(missing) > 1 {
				is = "are"
			}
			return fmt.Errorf("%s: %s %s missing", verb, strings.Join(missing, " and "), is)
		case most != anyNumber && len(args) > most && most == 0:
			return fmt.Errorf("%s: %q is too much: it takes no argument", verb, args[0])
		case most != anyNumber && len(args) > most:
			return fmt.Errorf("%s: %q is too much: it takes %s", verb, args[most],
				strings.Join(names, " "))
		}
		if i := slices.Index(args, ""); i >= 0 {
			return fmt.Errorf("%s: \"\" is no %s: it is empty, as a variable gives it that is not "+
				"set", verb, strings.Trim(names[min(i, len(names)-1)], "[]…"))
		}
		return nil
	}
}
