package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
)

// helpCommand is --help as a verb.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [VERB…]",
		Short: "Say what a verb does and what flags it has",
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			verb, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 && verb.HasSubCommands() {
				return fmt.Errorf("%w: there is no verb %q", exit.ErrUsage,
					strings.Join(args, " "))
			}
			verb.InitDefaultHelpFlag()
			return verb.Help()
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string,
			begun string) ([]string, cobra.ShellCompDirective) {
			var names []string
			if above, _, err := cmd.Root().Find(args); err == nil {
				for _, c := range above.Commands() {
					if c.IsAvailableCommand() && strings.HasPrefix(c.Name(), begun) {
						names = append(names, c.Name()+"\t"+c.Short)
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

// completionCommand prints what a shell reads to complete command lines of this program.
// complete.go answers what the shell then asks.
func completionCommand() *cobra.Command {
	scripts := map[string]func(root *cobra.Command, w io.Writer, describe bool) error{
		"bash": (*cobra.Command).GenBashCompletionV2,
		"zsh": func(root *cobra.Command, w io.Writer, describe bool) error {
			if describe {
				return root.GenZshCompletion(w)
			}
			return root.GenZshCompletionNoDesc(w)
		},
		"fish": (*cobra.Command).GenFishCompletion,
	}
	var bare bool
	cmd := &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print a script that completes command lines in bash, zsh or fish",
		Long: `Print a script by which a shell completes command lines of ublk-remap. SHELL is
bash, zsh or fish. The packages install it. Without them:

  bash  needs the package bash-completion
  zsh   needs completions: autoload -U compinit; compinit`,
		Example: `    source <(ublk-remap completion bash)
    ublk-remap completion bash >/etc/bash_completion.d/ublk-remap
    ublk-remap completion zsh >"${fpath[1]}/_ublk-remap"
    ublk-remap completion fish >~/.config/fish/completions/ublk-remap.fish`,
		ValidArgs: []string{"bash", "zsh", "fish"},
		Args:      arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(cmd.ValidArgs, args[0]) {
				return fmt.Errorf("%w: completion: %q: want bash, zsh or fish", exit.ErrUsage,
					args[0])
			}
			return scripts[args[0]](cmd.Root(), cmd.OutOrStdout(), !bare)
		},
	}
	cmd.Flags().BoolVar(&bare, "no-descriptions", false,
		"complete words without saying what they are")
	return cmd
}
