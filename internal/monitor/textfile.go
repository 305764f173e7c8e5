package monitor

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
)

// textfileName is the name of the file that WriteTextfile writes.
const textfileName = "ublk_remap.prom"

// WriteTextfile writes the metrics to a file of a directory, in the form that the textfile
// collector of node_exporter reads. The file is replaced as a whole: a reader sees the old or the
// new one.
func WriteTextfile(dir string, source Source) error {
	if st, err := os.Stat(dir); err != nil {
		return fmt.Errorf("%w; make it, or name the directory that node_exporter reads "+
			"(--collector.textfile.directory)", err)
	} else if !st.IsDir() {
		return &os.PathError{Op: "write to", Path: dir, Err: syscall.ENOTDIR}
	}
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(newCollector(source)); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	return prometheus.WriteToTextfile(filepath.Join(dir, textfileName), r)
}
