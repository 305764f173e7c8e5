package health

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// FuzzDecode: whatever smartctl prints, there is a verdict with a reason.
func FuzzDecode(f *testing.F) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		f.Fatal(err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		d := Decode("/dev/sdx", text)
		r := Judge(&Seen{Now: time.Now()}, []Drive{d})
		if r.Verdict == "" || len(r.Reasons) == 0 || !d.says() && d.Note == "" {
			t.Errorf("%+v of %+v", r, d)
		}
	})
}
