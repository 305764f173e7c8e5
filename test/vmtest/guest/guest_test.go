package guest

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ublkremap/test/vmtest/proto"
)

// runHere runs a job on this machine, with files for ports.
func runHere(t *testing.T, job *proto.Job) (code int, stdout, stderr string) {
	t.Helper()
	ports := map[string]*os.File{}
	dir := t.TempDir()
	for _, name := range []string{proto.PortOut, proto.PortErr} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		ports[name] = f
	}
	if job.Dir == "" {
		job.Dir = dir
	}
	job.Env = append(job.Env, "PATH="+os.Getenv("PATH"))
	code, err := runJob(job, ports)
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	return code, read(proto.PortOut), read(proto.PortErr)
}

func TestRunJob(t *testing.T) {
	for _, tc := range []struct {
		name, script   string
		code           int
		stdout, stderr string
	}{
		{"success", "echo out; echo err >&2", 0, "out\n", "err\n"},
		{"failure", "exit 3", 3, "", ""},
		{"signal", "kill -KILL $$", 137, "", ""},
		{"environment", "echo $GREETING $PWD", 0, "hello /\n", ""},
		{"streams by path", "echo out >/dev/stdout; echo err >/dev/stderr", 0, "out\n", "err\n"},
		{"a daemon keeps the pipes", "sleep 30 & echo done", 0, "done\n", ""},
		{"orphans", "(sleep 0.05; exit 9) & (sleep 0.1 &) ; sleep 0.2; exit 4", 4, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			job := &proto.Job{Args: []string{"/bin/sh", "-c", tc.script},
				Env: []string{"GREETING=hello"}, Dir: "/"}
			if code, out, errs := runHere(t, job); code != tc.code || out != tc.stdout ||
				errs != tc.stderr {
				t.Errorf("code %d, stdout %q, stderr %q", code, out, errs)
			}
		})
	}
}

// All that a program writes arrives, though it ends long before the port has
// taken it.
func TestRunJobMuchOutput(t *testing.T) {
	job := &proto.Job{Args: []string{"/bin/sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; " +
		"echo end"}}
	code, out, _ := runHere(t, job)
	if code != 0 || len(out) != 3000004 || !strings.HasSuffix(out, "xend\n") {
		t.Errorf("code %d, %d bytes", code, len(out))
	}
}

func TestReadJob(t *testing.T) {
	if _, err := os.Stat(proto.JobPath); err == nil {
		t.Skip("this is a guest")
	}
	var job proto.Job
	if err := readJob(&job); err == nil {
		t.Errorf("%+v", job)
	}
}

func TestSendFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("contents\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	go func() {
		err := sendFile(w, file)
		if err == nil {
			err = proto.WriteFrame(w, proto.Frame{Kind: proto.KindExit, Code: 1})
		}
		w.CloseWithError(err)
	}()
	var got []byte
	frame, err := proto.ReadResult(r, func(path string, contents io.Reader) (err error) {
		if path != file {
			t.Errorf("path %s", path)
		}
		got, err = io.ReadAll(contents)
		return err
	})
	if err != nil || frame.Code != 1 || string(got) != "contents\n" {
		t.Errorf("%+v, %q, %v", frame, got, err)
	}
	if err := sendFile(io.Discard, file+"x"); !os.IsNotExist(err) {
		t.Errorf("a missing file: %v", err)
	}
}

func TestModprobeArguments(t *testing.T) {
	if code := Modprobe([]string{"-q", "--"}); code != 0 {
		t.Errorf("nothing to do: code %d", code)
	}
	if code := Modprobe([]string{"-q", "no-such-module"}); code != 1 {
		t.Errorf("a module that does not exist: code %d", code)
	}
}
