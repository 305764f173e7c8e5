package files

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"ublkremap/internal/program"
)

// packages are the Debian packages of the programs that are asked.
var packages = map[string]string{"debugfs": "e2fsprogs", "dumpe2fs": "e2fsprogs",
	"xfs_db": "xfsprogs", "xfs_logprint": "xfsprogs",
	"dmsetup": "dmsetup"}

// maxSaid is how much of a program's errors is kept.
const maxSaid = 4096

// lines runs a program and hands each line of its output to each, without the line's end. The
// program gets input as its standard input. It is ended with the context.
func (f *finder) lines(input string, each func(string), name string, args ...string) error {
	f.step("lines", "waiting for %s", name)
	cmd := exec.CommandContext(f.ctx, name, args...)
	if path, err := program.Find(name); err == nil {
		cmd.Path, cmd.Err = path, nil
	}
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBUGFS_PAGER=__none__", "PAGER=cat")
	cmd.Stdin = strings.NewReader(input)
	said := program.Keep(maxSaid)
	cmd.Stderr = said
	cmd.WaitDelay = time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return fmt.Errorf("%s is not installed (package %s)", name, packages[name])
		}
		return err
	}
	r := bufio.NewReaderSize(out, 64<<10)
	var readErr error
	for n := int64(0); readErr == nil; n++ {
		if n%oftenFiles == 0 {
			f.progress.Set(n, 0)
		}
		var line string
		if line, readErr = r.ReadString('\n'); line != "" {
			each(strings.TrimSuffix(line, "\n"))
		}
	}
	if errors.Is(readErr, io.EOF) {
		readErr = nil
	}
	err = errors.Join(readErr, cmd.Wait())
	switch {
	case f.ctx.Err() != nil:
		f.cut = true
		return errors.New(cutOff)
	case err != nil:
		return fmt.Errorf("%s: %w: %s", name, err, lastLine(said.String()))
	}
	return nil
}

// output runs a program and returns its output.
func (f *finder) output(name string, args ...string) (string, error) {
	var b strings.Builder
	err := f.lines("", func(line string) { b.WriteString(line + "\n") }, name, args...)
	return b.String(), err
}

// lastLine returns the last line of what a program said.
func lastLine(said string) string {
	all := strings.Split(strings.TrimSpace(said), "\n")
	return all[len(all)-1]
}
