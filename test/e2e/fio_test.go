package e2e

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

// startFio starts fio on a block device or, where file is not one, in a file
// of a mounted file system. args are its options without the dashes. Every job
// uses direct I/O and stops at the first wrong block.
func startFio(t testing.TB, file string, args ...string) *process {
	t.Helper()
	vmtest.NeedTools(t, "fio")
	if strings.HasPrefix(file, "/dev/") {
		needBlockDevice(t, file)
	}
	all := []string{
		"--name=e2e", "--filename=" + file, "--direct=1", "--ioengine=libaio", "--thread",
		"--output-format=json", "--eta=never", "--verify_fatal=1",
	}
	if strings.HasPrefix(file, "/dev/") {
		all = append(all, "--allow_file_create=0")
	}
	for _, a := range args {
		all = append(all, "--"+a)
	}
	return launch(t, "fio", all...)
}

// fio runs fio, which must end without an error, and returns what it did.
func fio(t testing.TB, file string, args ...string) fioReport {
	t.Helper()
	return fioDone(t, startFio(t, file, args...))
}

// fioDone waits for fio, which must end without an error.
func fioDone(t testing.TB, p *process) fioReport {
	t.Helper()
	return fioExit(t, p, 0)
}

// fioStopped ends fio, which must not have met an error.
func fioStopped(t testing.TB, p *process) fioReport {
	t.Helper()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	return fioExit(t, p, 128) // its exit code after SIGINT
}

func fioExit(t testing.TB, p *process, code int) fioReport {
	t.Helper()
	r := p.wait(t, fioLimit)
	rep, err := parseFio(r)
	if r.code != code || err != nil || rep.errors != 0 {
		t.Fatalf("fio: %v, %d jobs failed\n%s", err, rep.errors, brief(r))
	}
	return rep
}

// fioReport sums up fio's report over its jobs.
type fioReport struct {
	errors                int64
	readBytes, writeBytes int64
	reads, writes         int64
}

func parseFio(r result) (fioReport, error) {
	// Warnings may come before the JSON.
	text := r.stdout
	if i := strings.Index(text, "{"); i > 0 {
		text = text[i:]
	}
	type side struct {
		Bytes int64 `json:"io_bytes"`
		IOs   int64 `json:"total_ios"`
	}
	var out struct {
		Jobs []struct {
			Error       int64 `json:"error"`
			TotalErr    int64 `json:"total_err"`
			Read, Write side
		} `json:"jobs"`
	}
	err := json.Unmarshal([]byte(text), &out)
	var rep fioReport
	for _, j := range out.Jobs {
		if j.Error != 0 || j.TotalErr != 0 {
			rep.errors++
		}
		rep.readBytes += j.Read.Bytes
		rep.writeBytes += j.Write.Bytes
		rep.reads += j.Read.IOs
		rep.writes += j.Write.IOs
	}
	return rep, err
}

// brief is what fio says outside of its JSON, which is long and of no help.
func brief(r result) string {
	before, rest, _ := strings.Cut(r.stdout, "\n{\n")
	if strings.HasPrefix(r.stdout, "{") {
		before, rest = "", r.stdout
	}
	_, after, _ := strings.Cut(rest, "\n}\n")
	r.stdout = before + after
	return r.String()
}

// mixedSizes are requests of 4 KiB to 1 MiB, most of them small.
const mixedSizes = "bssplit=4k/30:8k/10:20k/10:64k/20:128k/10:256k/10:1M/10"
