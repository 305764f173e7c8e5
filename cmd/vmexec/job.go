package main

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ublkremap/test/vmtest"
	"ublkremap/test/vmtest/initrd"
	"ublkremap/test/vmtest/proto"
)

// programDir is the program's directory in the guest.
const programDir = "/vmexec"

// testFiles are the flags of a test binary that name a file that it writes. All such files are
// brought back to the same path on the host.
var testFiles = []string{"coverprofile", "cpuprofile", "memprofile", "blockprofile", "mutexprofile",
	"trace"}

// passed are prefixes of environment variables that are passed to the guest. GOCOVERDIR and the
// like name directories of the host and are not passed.
var passed = []string{"GODEBUG=", "GOTRACEBACK=", "GOMAXPROCS=", "GOGC=", "GOMEMLIMIT=", "GORACE=",
	"UBLK_", "RAPID_", "TZ="}

const guestPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// job builds the message to the guest, and the function that packs the files
// it needs.
func (o *options) job() (*proto.Job, func(*initrd.Archive) error, error) {
	program, err := filepath.Abs(o.args[0])
	if err != nil {
		return nil, nil, err
	}
	if st, err := os.Stat(program); err != nil {
		return nil, nil, err
	} else if !st.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s: not a regular file", program)
	}
	cwd, err := os.Getwd()
	if err != nil {
		return nil, nil, err
	}
	job := &proto.Job{
		Args:    append([]string{path.Join(programDir, filepath.Base(program))}, o.args[1:]...),
		Dir:     "/root",
		Modules: o.load,
	}
	files := slices.Clone(o.files)
	timeout := o.timeout
	if isTest(o.args[1:]) {
		job.Dir = cwd
		if _, err := os.Stat(filepath.Join(cwd, "testdata")); err == nil {
			files = append(files, pair{from: filepath.Join(cwd, "testdata")})
		}
		o.collectTestFiles(job, cwd)
		if d, ok := testTimeout(o.args[1:]); ok && d > 0 {
			timeout = d + 30*time.Second
		}
	}
	if o.dir != "" {
		job.Dir = o.dir
	}
	job.TimeoutSeconds = int64(timeout / time.Second)
	for _, c := range o.collect {
		job.Collect = append(job.Collect, c.from)
		job.MakeDirs = append(job.MakeDirs, path.Dir(c.from))
	}
	if len(o.disks) > 0 {
		job.Modules = append(slices.Clone(job.Modules), "virtio_blk")
	}
	job.Env = o.environment()
	return job, func(a *initrd.Archive) error {
		if err := a.Program(program, job.Args[0]); err != nil {
			return err
		}
		for _, f := range files {
			if err := packFile(a, f); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// packFile adds a file, with its libraries if it is a program, or a directory.
func packFile(a *initrd.Archive, f pair) error {
	from, err := filepath.Abs(f.from)
	if err != nil {
		return err
	}
	to := f.to
	if to == "" {
		to = from
	}
	st, err := os.Stat(from)
	if err != nil {
		return err
	}
	if st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
		return a.Program(from, to)
	}
	return a.Tree(from, to)
}

// isTest reports whether the arguments are those of a test binary.
func isTest(args []string) bool {
	return slices.ContainsFunc(args, func(a string) bool {
		return strings.HasPrefix(strings.TrimLeft(a, "-"), "test.") && strings.HasPrefix(a, "-")
	})
}

// testFlag returns the value of the flag -test.name=VALUE.
func testFlag(args []string, name string) (string, bool) {
	for _, a := range args {
		if v, ok := strings.CutPrefix(strings.TrimLeft(a, "-"), "test."+name+"="); ok {
			return v, true
		}
	}
	return "", false
}

func testTimeout(args []string) (time.Duration, bool) {
	v, ok := testFlag(args, "timeout")
	if !ok {
		return 0, false
	}
	d, err := time.ParseDuration(v)
	return d, err == nil
}

// collectTestFiles brings back what the test binary writes besides its output.
func (o *options) collectTestFiles(job *proto.Job, cwd string) {
	outDir := cwd
	if v, ok := testFlag(o.args[1:], "outputdir"); ok {
		outDir = v
		job.MakeDirs = append(job.MakeDirs, v)
	}
	for _, name := range testFiles {
		v, ok := testFlag(o.args[1:], name)
		if !ok {
			continue
		}
		if !filepath.IsAbs(v) {
			v = filepath.Join(outDir, v)
		}
		o.collect = append(o.collect, pair{from: v, to: v})
	}
	// -cover compiles in counters that want this directory to exist.
	if v, ok := testFlag(o.args[1:], "gocoverdir"); ok {
		job.MakeDirs = append(job.MakeDirs, v)
	}
}

// environment is the program's environment in the guest.
func (o *options) environment() []string {
	env := []string{
		"PATH=" + guestPath, "HOME=/root", "TMPDIR=/tmp", "LANG=C.UTF-8", "TERM=dumb",
		"DM_DISABLE_UDEV=1", // there is no udev: dmsetup makes the nodes itself
		vmtest.GuestEnv + "=" + o.kernel,
	}
	for _, kv := range os.Environ() {
		if slices.ContainsFunc(passed, func(p string) bool { return strings.HasPrefix(kv, p) }) {
			env = append(env, kv)
		}
	}
	for _, kv := range o.env {
		if !strings.Contains(kv, "=") {
			kv += "=" + os.Getenv(kv)
		}
		env = append(env, kv)
	}
	return env
}
