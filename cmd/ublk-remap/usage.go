package main

import (
	"errors"
	"fmt"
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
	want := ""
	switch bad.GetFlag().Value.Type() {
	case "duration":
		want = "a time such as 30s, 10m or 168h, not beyond 290 years"
	case "int", "uint", "uint8", "uint16", "uint32", "uint64", "int64":
		want = "a whole number, in the range of the flag"
	case "bool":
		want = "true or false"
	default:
		return err
	}
	return fmt.Errorf("--%s %q: want %s", bad.GetFlag().Name, bad.GetValue(), want)
}

// anyNumber is for verbs that take any number of arguments.
const anyNumber = -1

// arguments checks how many arguments a verb has. The error names the arguments of Use.
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
		return nil
	}
}
