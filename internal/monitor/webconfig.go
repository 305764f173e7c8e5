package monitor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/prometheus/exporter-toolkit/web"

	"ublkremap/internal/config"
)

// CheckWebConfig reads a file of exporter-toolkit, and the files that it names. An empty path means
// that there is none. The error is config.ErrInvalid if what stands in the file makes no sense.
func CheckWebConfig(path string) error {
	err := web.Validate(path)
	if at := (*fs.PathError)(nil); errors.As(err, &at) && at.Path == path {
		return err // it cannot be read
	}
	if err == nil {
		return emptyConfig(path)
	}
	why := strings.Join(strings.Fields(err.Error()), " ") // errors of YAML have lines
	return fmt.Errorf("%s: %w: %s; what it can have: https://github.com/prometheus/exporter-"+
		"toolkit/blob/master/docs/web-configuration.md", path, config.ErrInvalid, why)
}

// emptyConfig refuses a file without a key, such as one that was cut off: with it anybody could
// read what users and a certificate were meant to keep.
func emptyConfig(path string) error {
	if path == "" {
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && line != "---" && line[0] != '#' {
			return nil
		}
	}
	return fmt.Errorf("%s: %w: it is empty; give it tls_server_config or basic_auth_users, or "+
		"leave it out", path, config.ErrInvalid)
}
