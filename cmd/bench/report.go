package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"

	"ublkremap/bench/plot"
	"ublkremap/bench/result"
)

// The files of a directory of results.
const (
	resultsFile = "results.json"
	tableFile   = "README.md"
)

// report makes the table and the plots of the figures in a directory, and prints the table.
func report(dir string, stdout io.Writer) error {
	f, err := os.Open(filepath.Join(dir, resultsFile))
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := result.Read(f)
	if err != nil {
		return err
	}
	plots, err := plot.Save(r, dir)
	if err != nil {
		return err
	}
	for i := range plots {
		plots[i] += ".svg"
	}
	var table bytes.Buffer
	if err := r.Markdown(&table, plots); err != nil {
		return err
	}
	_, err = stdout.Write(table.Bytes())
	return errors.Join(err, os.WriteFile(filepath.Join(dir, tableFile), table.Bytes(), 0o644))
}
