package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
)

// document is a file with its expected contents.
type document struct {
	path string // below the tree
	size int64
	sum  [sha256.Size]byte
}

// contents returns random bytes that depend on the seed and the name alone.
func contents(seed uint64, name string) io.Reader {
	key := sha256.Sum256(binary.LittleEndian.AppendUint64([]byte(name), seed))
	return rand.NewChaCha8(key)
}

// inventTree writes files of random sizes and contents below dir, about total bytes in all.
func inventTree(dir string, total int64, seed uint64) error {
	sizes := rand.New(rand.NewPCG(seed, 0))
	for i := 0; total > 0; i++ {
		name := filepath.Join(fmt.Sprintf("shelf-%02d", i/20), fmt.Sprintf("volume-%04d", i))
		// From a few bytes to 2 MiB. Each order of magnitude is equally likely.
		n := min(sizes.Int64N(int64(16)<<sizes.IntN(18)), total)
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		b, err := io.ReadAll(io.LimitReader(contents(seed, name), n))
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			return err
		}
		total -= n + 4096 // roughly what the file system needs for it
	}
	return nil
}

// takeStock lists the regular files below dir with their checksums.
func takeStock(dir string) ([]document, error) {
	var docs []document
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		d := document{path: rel}
		d.size, d.sum, err = checksum(path)
		docs = append(docs, d)
		return err
	})
	return docs, err
}

func checksum(path string) (int64, [sha256.Size]byte, error) {
	var sum [sha256.Size]byte
	f, err := os.Open(path)
	if err != nil {
		return 0, sum, err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	n, err := io.CopyBuffer(h, struct{ io.Reader }{f}, make([]byte, 1<<20))
	h.Sum(sum[:0])
	return n, sum, err
}

// write makes a file with these contents, or with as much of them as there is space for. It returns
// what was written. Every error except "no space left" counts as an error. It calls progress after
// each MiB or less.
func write(path string, flags int, from io.Reader, progress func()) (document, error) {
	d := document{path: filepath.Base(path)}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|flags, 0o600)
	if err != nil {
		return d, err
	}
	h := sha256.New()
	d.size, err = pour(f, h, from, progress)
	if err == nil {
		err = f.Sync()
	}
	h.Sum(d.sum[:0])
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return d, err
}

// pour copies until the source ends or there is no space left, and hashes what was written.
func pour(to io.Writer, h hash.Hash, from io.Reader, progress func()) (int64, error) {
	buf := make([]byte, 1<<20)
	var total int64
	for {
		n, err := io.ReadFull(from, buf)
		if err != nil && n == 0 {
			if err == io.EOF {
				err = nil
			}
			return total, err
		}
		// os.File.Write continues by itself until nothing more is accepted.
		n, err = to.Write(buf[:n])
		_, _ = h.Write(buf[:n])
		total += int64(n)
		if errors.Is(err, syscall.ENOSPC) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		progress()
	}
}

// compare reads every document below dir, and returns what is wrong.
func compare(dir string, docs []document) (good int, wrong []string) {
	for _, d := range docs {
		size, sum, err := checksum(filepath.Join(dir, d.path))
		switch {
		case err != nil:
			wrong = append(wrong, err.Error())
		case size != d.size:
			wrong = append(wrong, fmt.Sprintf("%s: %d bytes instead of %d", d.path, size, d.size))
		case !bytes.Equal(sum[:], d.sum[:]):
			wrong = append(wrong, d.path+": other contents")
		default:
			good++
		}
	}
	return good, wrong
}

func bytesIn(docs []document) (n int64) {
	for _, d := range docs {
		n += d.size
	}
	return n
}
