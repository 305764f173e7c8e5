package proto

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestResultWithFiles(t *testing.T) {
	var b bytes.Buffer
	files := map[string]string{"/a": "first", "/b": "", "/c": "{\"kind\":\"exit\"}\nnot a frame\n"}
	for _, name := range []string{"/a", "/b", "/c"} {
		if err := WriteFrame(&b, Frame{Kind: KindFile, Path: name,
			Size: int64(len(files[name]))}); err != nil {
			t.Fatal(err)
		}
		b.WriteString(files[name])
	}
	if err := WriteFrame(&b, Frame{Kind: KindExit, Code: 3, Tainted: TaintWarn,
		Kernel: "7.3"}); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	frame, err := ReadResult(iotest.OneByteReader(&b), func(path string, r io.Reader) error {
		if path == "/c" {
			return nil // what is not read is skipped
		}
		contents, err := io.ReadAll(r)
		got[path] = string(contents)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := (Frame{Kind: KindExit, Code: 3, Tainted: TaintWarn, Kernel: "7.3"}); frame != want {
		t.Errorf("frame %+v, want %+v", frame, want)
	}
	if len(got) != 2 || got["/a"] != "first" || got["/b"] != "" {
		t.Errorf("files %q", got)
	}
}

// Whatever a dying guest leaves on the port is 'no result', never a result
// and never a hang.
func TestNoResult(t *testing.T) {
	var whole bytes.Buffer
	_ = WriteFrame(&whole, Frame{Kind: KindFile, Path: "/f", Size: 5})
	whole.WriteString("12345")
	_ = WriteFrame(&whole, Frame{Kind: KindExit})
	inputs := []string{"garbage\n", "{}\n", `{"kind":"file","path":"/x","size":-1}` + "\n",
		strings.Repeat("x", 100<<10)}
	for n := range whole.Len() {
		inputs = append(inputs, whole.String()[:n])
	}
	for _, in := range inputs {
		frame, err := ReadResult(strings.NewReader(in), func(_ string, r io.Reader) error {
			_, err := io.Copy(io.Discard, r)
			return err
		})
		if !errors.Is(err, ErrNoResult) {
			t.Errorf("%.60q: frame %+v, error %v", in, frame, err)
		}
	}
}

func TestHostError(t *testing.T) {
	var b bytes.Buffer
	_ = WriteFrame(&b, Frame{Kind: KindFile, Path: "/f"})
	full := errors.New("disk full")
	_, err := ReadResult(&b, func(string, io.Reader) error { return full })
	if !errors.Is(err, full) || errors.Is(err, ErrNoResult) {
		t.Errorf("error %v, want the host's own", err)
	}
}
