package campaign

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"ublkremap/test/rig"
)

// fio is a job that runs.
type fio struct {
	out, errs bytes.Buffer
	done      chan error
	took      time.Duration // once done can be read
}

// startFio starts fio on a file or a device, with direct I/O, to stop at the
// first wrong block. args are options without the dashes.
func startFio(t *testing.T, file string, args ...string) *fio {
	t.Helper()
	all := []string{
		"--name=campaign", "--filename=" + file, "--direct=1", "--ioengine=libaio", "--thread",
		"--output-format=json", "--eta=never", "--verify_fatal=1", "--verify=crc32c",
		"--randrepeat=1", "--allow_file_create=0",
	}
	for _, a := range args {
		all = append(all, "--"+a)
	}
	f := &fio{done: make(chan error, 1)}
	cmd := exec.Command("fio", all...)
	cmd.Stdout, cmd.Stderr = &f.out, &f.errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	go func() {
		err := cmd.Wait()
		f.took = time.Since(began)
		f.done <- err
	}()
	return f
}

// running says whether the job has not ended yet.
func (f *fio) running() bool { return len(f.done) == 0 }

// wait waits for the end, which must be without an error, and returns how many
// bytes were written and read back right.
func (f *fio) wait(t *testing.T) (wrote, verified int64) {
	t.Helper()
	var err error
	select {
	case err = <-f.done:
		f.done <- err
	case <-time.After(5 * time.Minute):
		rig.DumpTasks("fio does not end")
		t.Fatal("fio does not end")
	}
	text := f.out.String()
	var report struct {
		Jobs []struct {
			Error       int `json:"error"`
			Read, Write struct {
				Bytes int64 `json:"io_bytes"`
			}
		}
	}
	jerr := json.Unmarshal([]byte(text[max(0, strings.Index(text, "{")):]), &report)
	failed := err != nil || jerr != nil || len(report.Jobs) == 0
	for _, j := range report.Jobs {
		failed = failed || j.Error != 0
		wrote += j.Write.Bytes
		verified += j.Read.Bytes
	}
	if failed {
		before, _, _ := strings.Cut(text, "{")
		t.Fatalf("fio: %v, %v\n%s%s\n%s", err, jerr, before, f.errs.String(), rig.KernelLog(30))
	}
	if verified == 0 {
		t.Fatal(fmt.Errorf("fio has verified nothing"))
	}
	return wrote, verified
}
