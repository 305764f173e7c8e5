package monitor

import (
	"fmt"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
)

// TextfileName is the name of the file that WriteTextfile writes.
const TextfileName = "ublk_remap.prom"

// WriteTextfile writes the metrics to a file of a directory, in the form that the textfile
// collector of node_exporter reads. The file is replaced as a whole: a reader sees the old or the
// new one.
func WriteTextfile(dir string, source Source) error {
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(NewCollector(source)); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	return prometheus.WriteToTextfile(filepath.Join(dir, TextfileName), r)
}
