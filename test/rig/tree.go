package rig

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// Tree is what files hold: their checksums by path.
type Tree map[string][sha256.Size]byte

// PlantTree writes some hundred files of up to 1 MiB, 5 MiB in all, and makes
// them durable.
func PlantTree(t testing.TB, dir string, rng *rand.Rand) Tree {
	t.Helper()
	out := Tree{}
	buf := make([]byte, 1<<20)
	for i := range 120 {
		// Mostly small, a few large.
		n := 1<<(6+rng.IntN(10)) + rng.IntN(100)
		if i%40 == 0 {
			n = len(buf) - rng.IntN(5000)
		}
		b := buf[:n]
		for j := 0; j+8 <= n; j += 8 {
			binary.LittleEndian.PutUint64(b[j:], rng.Uint64())
		}
		path := filepath.Join("tree", fmt.Sprint(i%7), fmt.Sprintf("file%d", i))
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), b, 0o644); err != nil {
			t.Fatal(err)
		}
		out[path] = sha256.Sum256(b)
	}
	SyncFS(t, dir)
	return out
}

// Verify reads every file from the device, not from the cache, and fails the
// test unless all are there as they were.
func (tr Tree) Verify(t testing.TB, dir string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		t.Fatal(err)
	}
	seen := 0
	err := filepath.WalkDir(filepath.Join(dir, "tree"), func(path string, e fs.DirEntry,
		err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if want, ok := tr[name]; !ok || sha256.Sum256(b) != want {
			t.Errorf("%s: %d bytes with another checksum (planted: %v)", name, len(b), ok)
		}
		seen++
		return nil
	})
	if err != nil || seen != len(tr) {
		t.Errorf("%d files of %d: %v", seen, len(tr), err)
	}
}
