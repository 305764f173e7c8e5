package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// settings are options of each kind.
type settings struct {
	number int
	count  uint64
	time   time.Duration
	choice string
	text   string
	on     bool
	list   []string
	all    []Option
}

func newSettings() *settings {
	s := &settings{}
	any := func(string) error { return nil }
	s.all = []Option{
		{Name: "number", Value: Int(&s.number, 0, 1, 9), Default: "as many as there are"},
		{Name: "count", Value: Count(&s.count, 5)},
		{Name: "time", Value: Time(&s.time, time.Second, 0, time.Hour, "a time")},
		{Name: "choice", Value: Choice(&s.choice, "auto", "auto", "on", "off"), Change: Restart},
		{Name: "text", Value: Parsed(&s.text, "", "TEXT", "a text", any), NoFlag: true, Path: true},
		{Name: "switch", Value: OnOff(&s.on)},
		{Name: "list", Value: Texts(&s.list, "ITEM", "texts", any)},
	}
	return s
}

func useDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "etc")
	t.Setenv(DirEnv, dir)
	return dir
}

// Read returns what Write wrote, whatever that is.
func TestWriteAndRead(t *testing.T) {
	dir := useDir(t)
	odd := "/a \"b\" \\ \t\x7f\u202e ü"
	text := Render([]Line{{Comment: "a comment"}, {}, {Key: "number", Kind: Number,
		Texts: []string{"7"}}, {Key: "text", Kind: Text, Texts: []string{odd}},
		{Key: "switch", Kind: Switch, Texts: []string{"true"}},
		{Key: "list", Kind: List, Texts: []string{odd, ""}}})
	made, err := Write("data", text)
	if err != nil || made != dir {
		t.Fatal(made, err)
	}
	f, err := Read("data")
	if err != nil {
		t.Fatal(err)
	}
	s := newSettings()
	if err := f.Apply(s.all, nil); err != nil {
		t.Fatal(err)
	}
	if s.number != 7 || s.text != odd || !s.on || !slices.Equal(s.list, []string{odd, ""}) {
		t.Errorf("%+v of\n%s", s, text)
	}
	if st, err := os.Stat(f.Path); err != nil || st.Mode().Perm() != 0o644 {
		t.Error(st.Mode(), err)
	}
	// A file that exists is not touched.
	if _, err := Write("data", "x"); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	if names, err := Names(); err != nil || !slices.Equal(names, []string{"data"}) {
		t.Error(names, err)
	}
	if err := errors.Join(Remove("data"), Remove("data")); err != nil {
		t.Error(err)
	}
}

// A write that fails leaves nothing behind.
func TestWriteFails(t *testing.T) {
	dir := useDir(t)
	// The disk of the directory is full: the file does not fit.
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 10, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	made, err := Write("data", strings.Repeat("# too much\n", 100))
	if restore := unix.Setrlimit(unix.RLIMIT_FSIZE, &was); restore != nil {
		t.Fatal(restore)
	}
	if !errors.Is(err, unix.EFBIG) || made != "" {
		t.Errorf("%q, %v", made, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("%v, %v", entries, err)
	}
	// A file is not written into a directory that others may write to.
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Write("data", ""); !errors.Is(err, ErrRefused) {
		t.Error(err)
	}
	// A name that would lead out of the directory.
	for _, name := range []string{"", ".", "..", "../x", "a/b", "/x", ".x", "a\x00b"} {
		_, writeErr := Write(name, "")
		_, readErr := Read(name)
		if !errors.Is(writeErr, ErrName) || !errors.Is(readErr, ErrName) {
			t.Errorf("%q: %v, %v", name, writeErr, readErr)
		}
	}
}

// Reading does not wait for a pipe, and follows a link to its file.
func TestOddFiles(t *testing.T) {
	dir := useDir(t)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "pipe.toml"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read("pipe"); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := errors.Join(os.WriteFile(other, []byte("number = 3\n"), 0o644),
		os.Symlink(other, filepath.Join(dir, "link.toml"))); err != nil {
		t.Fatal(err)
	}
	f, err := Read("link")
	if err != nil || f.Name != "link" || f.Setting("number") == nil {
		t.Errorf("%+v, %v", f, err)
	}
	if err := os.Chmod(other, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Read("link"); !errors.Is(err, ErrRefused) {
		t.Errorf("a link to a file that others can write: %v", err)
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	if _, err := Read("link"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// Excepted options keep their values. A list from flags replaces the default. A list from a file
// replaces the old value.
func TestApply(t *testing.T) {
	f := &File{Path: "x.toml"}
	if err := f.parse([]byte("number = 3\nlist = [\"a\"]\ntime = \"2s\"\n")); err != nil {
		t.Fatal(err)
	}
	s := newSettings()
	for _, item := range []string{"c", "d"} {
		if err := Find(s.all, "list").Value.Set(item); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(s.list, []string{"c", "d"}) {
		t.Error(s.list)
	}
	if err := f.Apply(s.all, func(o *Option) bool { return o.Name == "number" }); err != nil {
		t.Fatal(err)
	}
	if s.number != 0 || s.time != 2*time.Second || !slices.Equal(s.list, []string{"a"}) {
		t.Errorf("%+v", s)
	}
	if n, c := Find(s.all, "number"), Find(s.all, "count"); n.Set() || c.Set() ||
		n.DefaultText() != "as many as there are" || c.DefaultText() != "5" {
		t.Error("defaults")
	}
	if !Find(s.all, "time").Set() || len(Flags(s.all)) != len(s.all)-1 {
		t.Error("what is set, and what is a flag")
	}
	if err := (*File)(nil).Apply(s.all, nil); err != nil {
		t.Error(err)
	}
}

// A byte order mark cannot be seen in an editor, so the error names it.
func TestByteOrderMark(t *testing.T) {
	err := (&File{Path: "x.toml", Name: "x"}).parse([]byte("\ufeffnumber = 3\n"))
	if !errors.Is(err, ErrInvalid) || !strings.HasPrefix(err.Error(), "x.toml:1:1: ") ||
		!strings.Contains(err.Error(), "byte order mark") {
		t.Error(err)
	}
}

// Reading any file gives either settings or an error that names a place in the file.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"number = 3\n", "[x]\ny = 1\n", "a.b = 1", "x = [1, \"2\"]",
		"choice = \"on\" # x\n\n\"text\" = '''\na'''\n", "x = {a = 1}", "[[x]]\n", "\xff",
		"a = 1979-05-27",
		"'a\\b' = 1", "list = [\n\"a\",\n]\n", "= 3", "\"\" = 1"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file := &File{Path: "x.toml", Name: "x"}
		err := file.parse(text)
		if err == nil {
			err = file.Apply(newSettings().all, nil)
		}
		for _, s := range file.Settings {
			if s.Line < 1 || s.Column < 1 || s.Line > 1+strings.Count(string(text), "\n") {
				t.Errorf("%+v", s)
			}
		}
		var p *Problem
		if err != nil && (!errors.As(err, &p) || p.Line < 1 || !errors.Is(err, ErrInvalid)) {
			t.Errorf("%q: %v", text, err)
		}
	})
}
