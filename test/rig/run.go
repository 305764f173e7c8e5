package rig

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"ublkremap/test/vmtest"
)

// Limit is how long a program may take before it counts as hung. On 6.12 the
// kernel itself notices only after 30 s that a saturated server is dead; the
// rest is for slow machines.
const Limit = 90 * time.Second

// Exit codes of ublk-remap, docs/COMMAND.md.
const (
	ExitDone = iota
	ExitFailed
	ExitUsage
	ExitRefused
	ExitNotFound
	ExitUnsupported
	ExitDamaged
)

// Exec runs a program to its end.
func Exec(t testing.TB, name string, args ...string) Result {
	t.Helper()
	return Launch(t, name, args...).Wait(t, Limit)
}

// Run runs a program, which must exit with 0.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	return Exec(t, name, args...).Want(t, 0)
}

// Remap runs ublk-remap to its end.
func Remap(t testing.TB, args ...string) Result {
	t.Helper()
	return Exec(t, vmtest.Binary(t), args...)
}

// Want runs ublk-remap, and fails the test unless it exits with code.
func Want(t testing.TB, code int, args ...string) Result {
	t.Helper()
	r := Remap(t, args...)
	if r.Code != code {
		t.Fatalf("want exit code %d\n%s%s", code, r, ServerLogs("*"))
	}
	return r
}

// Parse reads the one JSON value that a verb has printed.
func Parse(t testing.TB, r Result, to any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.Want(t, ExitDone)), to); err != nil {
		t.Fatalf("JSON: %v\n%s", err, r)
	}
}

// Await calls f until it returns no error. At the limit, which only a hang reaches, it fails the
// test with the last error.
func Await(t testing.TB, what string, f func() error) {
	t.Helper()
	for deadline := time.Now().Add(Limit); ; time.Sleep(10 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			DumpTasks(what)
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// Until waits for something that must happen.
func Until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	Await(t, what, func() error {
		if !cond() {
			return errors.New("it does not happen")
		}
		return nil
	})
}

// SeedEnv names the environment variable that repeats a run's random choices.
const SeedEnv = "UBLK_REMAP_SEED"

// Seed chooses a seed, unless the environment has one.
func Seed(t testing.TB) uint64 {
	t.Helper()
	s := os.Getenv(SeedEnv)
	if s == "" {
		return uint64(time.Now().UnixNano())
	}
	seed, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", SeedEnv, err)
	}
	return seed
}

// Random is a source of random choices whose seed is in the test's log.
func Random(t testing.TB) *rand.Rand {
	t.Helper()
	seed := Seed(t)
	t.Logf("seed: %s=%d", SeedEnv, seed)
	return rand.New(rand.NewPCG(seed, 0))
}
