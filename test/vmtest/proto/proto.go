package proto

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// JobPath is where the guest finds its [Job].
const JobPath = "/vmexec/job.json"

// Names of the ports; those of virtio-serial are shown as such in
// /sys/class/virtio-ports/*/name.
const (
	PortOut    = "vmexec.out"
	PortErr    = "vmexec.err"
	PortResult = "vmexec.res"
)

// PortsParam begins the parameter of the kernel's command line that names the
// serial lines that are the ports, in the order above and with commas between,
// on machines that have no virtio-serial.
const PortsParam = "vmexec.ports="

// Exit codes of vmexec beyond those of the program that it ran. They are high and unusual, so that
// no test framework uses them.
const (
	// ExitTimeout: the program ran for longer than it was allowed to and was
	// ended; the guest itself was well.
	ExitTimeout = 96
	// ExitNoResult: the guest ended without saying how its program ended
	// (kernel panic, hang, QEMU died), twice in a row. It says nothing about the program.
	ExitNoResult = 97
	// ExitSetup: no guest was started, because something on the host is
	// missing or wrong (QEMU, a kernel, a tool, a flag).
	ExitSetup = 98
	// ExitGuestSetup: the guest started, but could not prepare what the
	// job asks for (a module, a mount, the program itself).
	ExitGuestSetup = 99
)

// Job says what the guest is to run.
type Job struct {
	// Args is the program's absolute path in the guest and its arguments.
	Args []string `json:"args"`
	// Env is the whole environment, as KEY=VALUE.
	Env []string `json:"env"`
	// Dir is the working directory; the guest makes it if it is missing.
	Dir string `json:"dir"`
	// Modules are loaded, in this order, before the program starts.
	// A module that is built in counts as loaded.
	Modules []string `json:"modules"`
	// MakeDirs are directories to make first.
	MakeDirs []string `json:"make_dirs,omitempty"`
	// TimeoutSeconds is how long the program may run; 0 is for ever.
	TimeoutSeconds int64 `json:"timeout_seconds,omitempty"`
	// Collect are files that are sent back after the program has ended;
	// one that does not exist is left out.
	Collect []string `json:"collect,omitempty"`
}

// Kinds of [Frame].
const (
	KindFile = "file"
	KindExit = "exit"
)

// Frame is one message of the result port.
type Frame struct {
	Kind string `json:"kind"`

	// Of a file: its path in the guest and its length in bytes.
	Path string `json:"path,omitempty"`
	Size int64  `json:"size,omitempty"`

	// Of an exit: the program's exit code, 128+n if signal n ended it, or
	// ExitGuestSetup with the reason in Error.
	Code  int    `json:"code"`
	Error string `json:"error,omitempty"`
	// Tainted is /proc/sys/kernel/tainted at the end; see [TaintWarn].
	Tainted uint64 `json:"tainted,omitempty"`
	// Kernel is the guest's uname release.
	Kernel string `json:"kernel,omitempty"`
}

// TaintWarn is the bit of Frame.Tainted that says that the kernel printed a
// WARNING (Documentation/admin-guide/tainted-kernels.rst, bit 9).
const TaintWarn = 1 << 9

// ErrNoResult is returned when the result port ends before an exit frame.
var ErrNoResult = errors.New("the guest gave no result")

// maxFrameLine bounds a frame's JSON line: a path and an error text fit many times over.
const maxFrameLine = 64 << 10

// WriteFrame writes f's line; for a file the caller writes the Size bytes of
// contents next.
func WriteFrame(w io.Writer, f Frame) error {
	line, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("frame: %w", err)
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

// ReadResult reads frames until the exit frame and returns it. Each file is handed to onFile with a
// reader of exactly its contents; what onFile leaves unread is skipped, and an error from it ends
// the reading. A port that ends early or sends invalid data is ErrNoResult, wrapped with what was
// seen.
func ReadResult(r io.Reader, onFile func(path string, contents io.Reader) error) (Frame, error) {
	br := bufio.NewReaderSize(r, maxFrameLine)
	for {
		line, err := br.ReadSlice('\n')
		if err != nil {
			if errors.Is(err, bufio.ErrBufferFull) {
				return Frame{}, fmt.Errorf("%w: its result is not a frame", ErrNoResult)
			}
			return Frame{}, fmt.Errorf("%w: %w after %s", ErrNoResult, err,
				strconv.Quote(string(line)))
		}
		var f Frame
		if err := json.Unmarshal(line, &f); err != nil {
			return Frame{}, fmt.Errorf("%w: frame %q: %w", ErrNoResult, line, err)
		}
		switch f.Kind {
		case KindExit:
			return f, nil
		case KindFile:
			if f.Size < 0 {
				return Frame{}, fmt.Errorf("%w: file %s of %d bytes", ErrNoResult, f.Path, f.Size)
			}
			contents := &io.LimitedReader{R: br, N: f.Size}
			if err := onFile(f.Path, contents); err != nil {
				return Frame{}, err
			}
			if _, err := io.Copy(io.Discard, contents); err != nil || contents.N != 0 {
				return Frame{}, fmt.Errorf("%w: file %s cut off", ErrNoResult, f.Path)
			}
		default:
			return Frame{}, fmt.Errorf("%w: unknown frame kind %q", ErrNoResult, f.Kind)
		}
	}
}
