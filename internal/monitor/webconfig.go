package monitor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/prometheus/exporter-toolkit/web"
	"go.yaml.in/yaml/v2"

	"ublkremap/internal/config"
)

// CheckWebConfig reads a file of exporter-toolkit, and the files that it names. An empty path means
// that there is none. The error is config.ErrInvalid if what stands in the file makes no sense, and
// config.ErrRefused if others than root and this user could have written one of them. It warns of a
// private key that all can read: so are those that container managers hand in.
func CheckWebConfig(path string, warn func(string)) error {
	if path == "" {
		return nil
	}
	if err := config.Trusted(path); err != nil {
		return err
	}
	err := web.Validate(path)
	if at := (*fs.PathError)(nil); errors.As(err, &at) && at.Path == path {
		return err // it cannot be read
	}
	if err == nil {
		text, err := os.ReadFile(path)
		return errors.Join(err, emptyConfig(path, text), trustedNamed(path, text, warn))
	}
	why := strings.Join(strings.Fields(err.Error()), " ") // errors of YAML have lines
	return fmt.Errorf("%s: %w: %s; what it can have: https://github.com/prometheus/exporter-"+
		"toolkit/blob/master/docs/web-configuration.md", path, config.ErrInvalid, why)
}

// emptyConfig refuses a file without a key, such as one that was cut off: with it anybody could
// read what users and a certificate were meant to keep.
func emptyConfig(path string, text []byte) error {
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && line != "---" && line[0] != '#' {
			return nil
		}
	}
	return fmt.Errorf("%s: %w: it is empty; give it tls_server_config or basic_auth_users, or "+
		"leave it out", path, config.ErrInvalid)
}

// trustedNamed checks who can write the files that a configuration names, and who can read a key.
func trustedNamed(path string, text []byte, warn func(string)) error {
	var c struct {
		TLS struct {
			Cert     string `yaml:"cert_file"`
			KeyFile  string `yaml:"key_file"`
			Key      string `yaml:"key"`
			ClientCA string `yaml:"client_ca_file"`
		} `yaml:"tls_server_config"`
	}
	if err := yaml.Unmarshal(text, &c); err != nil {
		return fmt.Errorf("%s: %w: %w", path, config.ErrInvalid, err)
	}
	check := func(file string, f func(string) error) error {
		if file == "" {
			return nil
		}
		if !filepath.IsAbs(file) {
			file = filepath.Join(filepath.Dir(path), file)
		}
		return f(file)
	}
	secret := func(file string) error {
		st, err := os.Stat(file)
		if err == nil && st.Mode().Perm()&0o004 != 0 {
			warn(fmt.Sprintf("%s: everybody on this host can read this private key (mode %04o); "+
				"to change that: chmod 640 %s", file, st.Mode().Perm(), file))
		}
		return err
	}
	if c.TLS.Key != "" { // the key itself
		if err := secret(path); err != nil {
			return err
		}
	}
	if err := check(c.TLS.KeyFile, secret); err != nil {
		return err
	}
	for _, file := range []string{c.TLS.Cert, c.TLS.KeyFile, c.TLS.ClientCA} {
		if err := check(file, config.Trusted); err != nil {
			return err
		}
	}
	return nil
}
