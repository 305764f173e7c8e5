package rig

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"ublkremap/test/vmtest"
)

// fioLimit is how long a fio job may take before it counts as hung.
const fioLimit = 6 * time.Minute

// Fio is a fio job that runs beside the test.
type Fio struct{ *Process }

// StartFio starts fio on a block device or, where file is not one, in a file
// of a mounted file system. args are its options without the dashes. Every job
// uses direct I/O and stops at the first wrong block.
func StartFio(t testing.TB, file string, args ...string) *Fio {
	t.Helper()
	vmtest.NeedTools(t, "fio")
	all := []string{
		"--name=rig", "--filename=" + file, "--direct=1", "--ioengine=libaio", "--thread",
		"--output-format=json", "--eta=never", "--verify_fatal=1",
	}
	if strings.HasPrefix(file, "/dev/") {
		NeedBlockDevice(t, file)
		all = append(all, "--allow_file_create=0")
	}
	for _, a := range args {
		all = append(all, "--"+a)
	}
	return &Fio{Launch(t, "fio", all...)}
}

// RunFio runs fio, which must end without an error, and returns what it did.
func RunFio(t testing.TB, file string, args ...string) FioReport {
	t.Helper()
	return StartFio(t, file, args...).Done(t)
}

// Done waits for the end, which must be without an error.
func (f *Fio) Done(t testing.TB) FioReport {
	t.Helper()
	return f.end(t, 0)
}

// Stop ends the job, which must not have met an error.
func (f *Fio) Stop(t testing.TB) FioReport {
	t.Helper()
	if err := f.Cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	return f.end(t, 128) // its exit code after SIGINT
}

func (f *Fio) end(t testing.TB, code int) FioReport {
	t.Helper()
	r := f.Wait(t, fioLimit)
	rep, err := parseFio(r)
	if r.Code != code || err != nil || rep.Failed != 0 {
		t.Fatalf("fio: %v, %d jobs failed\n%s\n%s", err, rep.Failed, f.Brief(), KernelLog(30))
	}
	return rep
}

// FioReport sums up fio's report over its jobs.
type FioReport struct {
	Failed                int // jobs that met an error
	ReadBytes, WriteBytes int64
}

func parseFio(r Result) (FioReport, error) {
	// Warnings may come before the JSON.
	text := r.Stdout[max(0, strings.Index(r.Stdout, "{")):]
	type side struct {
		Bytes int64 `json:"io_bytes"`
	}
	var out struct {
		Jobs []struct {
			Error       int64 `json:"error"`
			TotalErr    int64 `json:"total_err"`
			Read, Write side
		} `json:"jobs"`
	}
	err := json.Unmarshal([]byte(text), &out)
	var rep FioReport
	for _, j := range out.Jobs {
		if j.Error != 0 || j.TotalErr != 0 {
			rep.Failed++
		}
		rep.ReadBytes += j.Read.Bytes
		rep.WriteBytes += j.Write.Bytes
	}
	return rep, err
}

// Brief is what fio has said outside of its JSON, which is long and of no help.
func (f *Fio) Brief() string {
	r := f.Result()
	before, rest, _ := strings.Cut(r.Stdout, "\n{\n")
	if strings.HasPrefix(r.Stdout, "{") {
		before, rest = "", r.Stdout
	}
	_, after, _ := strings.Cut(rest, "\n}\n")
	r.Stdout = before + after
	return r.String()
}

// MixedSizes are requests of 4 KiB to 1 MiB, most of them small: an option of fio.
const MixedSizes = "bssplit=4k/30:8k/10:20k/10:64k/20:128k/10:256k/10:1M/10"
