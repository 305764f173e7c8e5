package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ublkremap/cmd/ublk-remap/internal/exit"
	"ublkremap/internal/alert/settings"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/config"
	"ublkremap/internal/control"
	"ublkremap/internal/host/set"
	"ublkremap/internal/readable"
)

func configCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check and show the configuration of sets",
		Long: `The configuration of a set is /etc/ublk-remap/NAME.toml: options of start, under
the names of its flags. A flag counts more than the file, and the file more than
the default.`,
		RunE: group,
	}
	cmd.AddCommand(configCheckCommand(a), configShowCommand(a), configSampleCommand(a))
	return cmd
}

// checkedFile is an item of the JSON of config check.
type checkedFile struct {
	File     string        `json:"file"`
	Name     string        `json:"name"`
	OK       bool          `json:"ok"`
	Problems []fileProblem `json:"problems"`
}

type fileProblem struct {
	Line    int    `json:"line"` // 0: the whole file
	Column  int    `json:"column"`
	Key     string `json:"key"`
	Message string `json:"message"`
}

func configCheckCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [NAME|FILE…]",
		Short: "Look for errors in the files of sets, and in that of the monitor",
		Long: `Look for errors in the files of sets and in monitor.conf, without an argument in
all of them: what is no TOML, unknown keys, values out of range, files that
others than root can write, two files for one disk, and a disk that carries
another set. Each error is one line: FILE:LINE:COLUMN: what is wrong.`,
		Args: arguments(0, anyNumber),
		RunE: func(cmd *cobra.Command, args []string) error {
			files, err := filesMeant(args)
			if err != nil {
				return err
			}
			return a.checkFiles(cmd.Context(), files)
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

// filesMeant returns the paths of the files that the arguments of config name.
func filesMeant(args []string) ([]string, error) {
	var files []string
	names := args
	if len(args) == 0 {
		var err error
		if names, err = config.Names(); err != nil {
			return nil, err
		}
	}
	for _, arg := range names {
		path, err := fileMeant(arg)
		if err != nil {
			return nil, err
		}
		files = append(files, path)
	}
	if _, err := os.Lstat(config.MonitorPath()); err == nil && len(args) == 0 {
		files = append(files, config.MonitorPath())
	}
	return files, nil
}

// ofMonitor reports whether a path is that of a file of the monitor, which is of no set.
func ofMonitor(path string) bool {
	return filepath.Base(path) == filepath.Base(config.MonitorPath())
}

func fileMeant(arg string) (string, error) {
	switch {
	case ofMonitor(arg) && !strings.Contains(arg, "/"):
		return config.MonitorPath(), nil
	case ofMonitor(arg):
		return arg, nil
	case strings.Contains(arg, "/"):
		_, err := config.NameOf(arg)
		return arg, err
	}
	return config.Path(arg)
}

// checkFiles prints the errors of files. Its error has the exit code of the worst one.
func (a *app) checkFiles(ctx context.Context, files []string) error {
	all := []checkedFile{}
	var worst error
	for _, path := range files {
		err := a.checkOne(ctx, path)
		for _, e := range flatten(err) {
			if exit.Code(e) > exit.Code(worst) {
				worst = e
			}
		}
		c := checkedFile{File: path, OK: err == nil, Problems: problemsOf(path, err)}
		if !ofMonitor(path) {
			c.Name, _ = config.NameOf(path)
		}
		all = append(all, c)
	}
	if a.json {
		if err := a.printJSON(all); err != nil {
			return err
		}
	}
	for _, c := range all {
		if c.OK && !a.json {
			if _, err := fmt.Fprintln(a.out, readable.Text(c.File)+": ok"); err != nil {
				return err
			}
		}
		for _, p := range c.Problems {
			a.tell("%s\n", readable.Text(p.text(c.File)))
		}
	}
	if worst != nil {
		return fmt.Errorf("%w (%w)", errSilent, worst)
	}
	return nil
}

func (p *fileProblem) text(file string) string {
	if p.Line == 0 {
		return file + ": " + p.Message
	}
	return fmt.Sprintf("%s:%d:%d: %s", file, p.Line, p.Column, p.Message)
}

// problemsOf splits an error into its problems.
func problemsOf(path string, err error) []fileProblem {
	all := []fileProblem{}
	for _, e := range flatten(err) {
		var p *config.Problem
		if errors.As(e, &p) {
			all = append(all, fileProblem{p.Line, p.Column, p.Key, p.Message})
			continue
		}
		all = append(all, fileProblem{Message: strings.TrimPrefix(exit.Line(e), path+": ")})
	}
	return all
}

// flatten returns the errors that errors.Join has joined.
func flatten(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []error
		for _, e := range joined.Unwrap() {
			all = append(all, flatten(e)...)
		}
		return all
	}
	if err == nil {
		return nil
	}
	return []error{err}
}

// checkOne returns all errors of a file.
func (a *app) checkOne(ctx context.Context, path string) error {
	if ofMonitor(path) {
		file, err := config.ReadMonitorFile(path)
		if err != nil {
			return err
		}
		return settings.New().Apply(file)
	}
	file, err := config.ReadFile(path)
	if err != nil {
		return err
	}
	said := newStartOptions(nil)
	if err := checkFile(file, said); err != nil {
		return err
	}
	return errors.Join(a.checkDisk(ctx, file, said), checkShared(file, said))
}

// diskAnswer is how long the disk that a file names may take to show what it carries.
const diskAnswer = 5 * time.Second

// checkDisk checks whether the disk that a file names carries another set. A disk that is missing,
// or does not answer, is no error of the file.
func (a *app) checkDisk(ctx context.Context, file *config.File, said *startOptions) error {
	if said.backing == "" {
		return nil
	}
	answer := make(chan error, 1)
	go func() {
		sb, err := set.Identify(ctx, said.backing)
		if err == nil {
			err = rightSet(file, said, set.IdentityOf(sb))
		} else {
			err = nil
		}
		answer <- err
	}()
	select {
	case err := <-answer:
		return err
	case <-time.After(diskAnswer):
		a.tell("ublk-remap: %s does not answer; what it carries was not looked at\n",
			readable.Text(said.backing))
		return nil
	}
}

// checkShared finds other files that name the same disks.
func checkShared(file *config.File, said *startOptions) error {
	names, err := config.Names()
	if err != nil {
		return err
	}
	var problems []error
	for _, name := range names {
		path, err := config.Path(name)
		if err != nil || sameFile(path, file.Path) {
			continue
		}
		other, err := config.ReadFile(path)
		theirs := newStartOptions(nil)
		if err != nil || checkFile(other, theirs) != nil {
			continue // its own check reports the error
		}
		for _, d := range said.disks() {
			for _, o := range theirs.disks() {
				if d.text == o.text || d.key != "uuid" && o.key != "uuid" &&
					blockdev.SameDisk(d.text, o.text) {
					problems = append(problems, file.At(file.Setting(d.key),
						"%s %s: %s names it too, in line %d; a disk is of one set", d.key, d.text,
						path, other.Setting(o.key).Line))
				}
			}
		}
	}
	return errors.Join(problems...)
}

type namedDisk struct{ key, text string }

// disks returns the disks that a file names.
func (o *startOptions) disks() (all []namedDisk) {
	for _, d := range []namedDisk{{"backing", o.backing}, {"uuid", strings.ToLower(o.uuid)}} {
		if d.text != "" {
			all = append(all, d)
		}
	}
	for _, s := range o.spares {
		all = append(all, namedDisk{"spare-device", s})
	}
	return all
}

func sameFile(a, b string) bool {
	x, errA := os.Stat(a)
	y, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(x, y)
}

// shownConfig is the JSON of config show.
type shownConfig struct {
	Name string `json:"name"`
	File string `json:"file"` // empty: there is none
	// Running: a server has the set, or the set's device waits for one.
	Running bool          `json:"running"`
	Options []shownOption `json:"options"`
}

type shownOption struct {
	Name string `json:"name"`
	// Value is empty if nothing is set and the default depends on the machine.
	Value   string   `json:"value"`
	Values  []string `json:"values,omitempty"` // of a list
	From    string   `json:"from"`             // default or file
	Line    int      `json:"line,omitempty"`
	Column  int      `json:"column,omitempty"`
	Default string   `json:"default"`
	Change  string   `json:"change"` // reload or restart: what a change needs
	// Running is the value that a running server has, if it differs.
	Running *string `json:"running,omitempty"`
}

func configShowCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show NAME|FILE",
		Short: "Show the options that a set is started with, and their origin",
		Long: `Show with which options a set is started, and where each comes from: its file or
the default. If a server runs that has something else, from a flag or from
before a change of the file, that is shown too, and what makes the change take
effect: reload (systemctl reload, or ublk-remap upgrade), or restart (stop and
start).`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			shown, err := showConfig(args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(shown)
			}
			return a.table(shown.rows())
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

func showConfig(what string) (*shownConfig, error) {
	path, err := fileMeant(what)
	if err != nil {
		return nil, err
	}
	o := newStartOptions(nil)
	shown := &shownConfig{Options: []shownOption{}}
	if shown.Name, err = config.NameOf(path); err != nil {
		return nil, err
	}
	file, err := config.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !strings.Contains(what, "/"):
		file = nil
	case err != nil:
		return nil, err
	default:
		shown.File = path
		if err := checkFile(file, o); err != nil {
			return nil, err
		}
	}
	r, err := control.ReadRecord(shown.Name)
	shown.Running = err == nil && r.Error == ""
	for i := range o.all {
		s := showOption(&o.all[i], file.Setting(o.all[i].Name))
		if shown.Running && r.Options != nil && !o.all[i].Path && !o.all[i].NoFlag {
			has, ok := r.Options[s.Name]
			if !ok {
				has = s.Default
			}
			if has != cmp.Or(s.Value, s.Default) {
				s.Running = &has
			}
		}
		shown.Options = append(shown.Options, s)
	}
	return shown, nil
}

func showOption(o *config.Option, s *config.Setting) shownOption {
	shown := shownOption{Name: o.Name, Value: o.Value.String(), From: "default",
		Default: o.DefaultText(), Change: o.Change.String()}
	if s != nil {
		shown.From, shown.Line, shown.Column = "file", s.Line, s.Column
		if o.Value.Kind() == config.List {
			shown.Values = s.Texts
		}
	}
	return shown
}

// rows returns the table for people.
func (c *shownConfig) rows() [][]string {
	rows := [][]string{{"OPTION", "VALUE", "FROM"}}
	running := false
	for _, o := range c.Options {
		from := "default"
		if o.Line > 0 {
			from = c.File + ":" + strconv.Itoa(o.Line)
		}
		row := []string{o.Name, cmp.Or(o.Value, "("+o.Default+")"), from}
		if o.Running != nil {
			running = true
			row = append(row, *o.Running, o.Change)
		}
		rows = append(rows, row)
	}
	if running {
		rows[0] = append(rows[0], "RUNS WITH", "TO CHANGE IT")
	}
	return rows
}

func configSampleCommand(a *app) *cobra.Command {
	var ofMonitor bool
	cmd := &cobra.Command{
		Use:   "sample",
		Short: "Print a file with every option, commented out",
		Args:  arguments(0, 0),
		RunE: func(*cobra.Command, []string) error {
			text := sampleConfig()
			if ofMonitor {
				text = sampleMonitor()
			}
			_, err := fmt.Fprint(a.out, text)
			return err
		},
	}
	cmd.Flags().BoolVar(&ofMonitor, "monitor", false, "print a file for the monitor, monitor.conf")
	return cmd
}

// sampleMonitor is sampleConfig for the monitor.
func sampleMonitor() string {
	var b strings.Builder
	b.WriteString("# /etc/ublk-remap/monitor.conf says whom the monitor tells about alerts. All " +
		"lines are\n# optional. What is commented out is the default, or shows the form. Changes " +
		"take effect\n# by: systemctl restart ublk-remap-monitor. To try them: ublk-remap alerts " +
		"test\n")
	for _, o := range settings.New().Options {
		fmt.Fprintf(&b, "\n# %s: %s", o.Name, o.Help)
		if o.Default != "" {
			fmt.Fprintf(&b, " (default: %s)", o.Default)
		}
		fmt.Fprintf(&b, "\n# %s\n# %s = %s\n", o.Value.Want(), o.Name, o.Example())
	}
	return b.String()
}

// sampleConfig returns a file that sets nothing and lists every key.
func sampleConfig() string {
	var b strings.Builder
	b.WriteString("# /etc/ublk-remap/NAME.toml says how the set NAME is started. All lines are\n" +
		"# optional. What is commented out is the default, or shows the form.\n")
	for _, o := range newStartOptions(nil).all {
		fmt.Fprintf(&b, "\n# %s: %s", o.Name, o.Help)
		if o.Default != "" {
			fmt.Fprintf(&b, " (default: %s)", o.Default)
		}
		change := "takes effect by a reload"
		if o.Change == config.Restart {
			change = "takes effect when the device is stopped and started"
		}
		fmt.Fprintf(&b, "\n# %s; %s\n# %s = %s\n", o.Value.Want(), change, o.Name, o.Example())
	}
	return b.String()
}
