package monitor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"ublkremap/internal/config"
)

// TestCheckWebConfig: what is wrong with a web configuration, or with a file that it names, is said
// in a line that names it.
func TestCheckWebConfig(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "web.yml")
	certificate(t, dir)
	for text, want := range map[string]error{
		"": config.ErrInvalid, "---\n# nothing\n": config.ErrInvalid,
		"http_server_config: {http2: false}\n":                          nil,
		"tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n": nil,
		"foo: [":                                     config.ErrInvalid,
		"frob: 1\n":                                  config.ErrInvalid,
		"basic_auth_users: {a: secret}\n":            config.ErrInvalid, // no hash
		"basic_auth_users: [a]\n":                    config.ErrInvalid,
		"tls_server_config: {}\nx: \x00\n":           config.ErrInvalid,
		"tls_server_config: {cert_file: cert.pem}\n": config.ErrInvalid,
		"tls_server_config: {cert_file: none.pem, key_file: key.pem}\n": config.ErrInvalid,
		"tls_server_config: {cert_file: key.pem, key_file: cert.pem}\n": config.ErrInvalid,
		"tls_server_config: {cert_file: cert.pem, key_file: key.pem, min_version: 7}\n": config.
			ErrInvalid,
		"tls_server_config: {cert_file: cert.pem, key_file: key.pem, client_ca_file: x}\n": config.
			ErrInvalid,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := CheckWebConfig(path, nil)
		if !errors.Is(err, want) || err != nil && (!strings.HasPrefix(err.Error(), path+": ") ||
			strings.Contains(err.Error(), "\n")) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := CheckWebConfig("", nil); err != nil {
		t.Errorf("none: %v", err)
	}
	none := filepath.Join(dir, "none.yml")
	for at, want := range map[string]error{none: fs.ErrNotExist, dir: syscall.EISDIR} {
		err := CheckWebConfig(at, nil)
		if !errors.Is(err, want) || strings.Count(err.Error(), at) != 1 {
			t.Errorf("%s: %v", at, err)
		}
	}
}

// TestWebConfigOfOthers: a web configuration that others could have written is refused, and so are
// the files that it names. A key that all can read is warned of.
func TestWebConfigOfOthers(t *testing.T) {
	dir := t.TempDir()
	certificate(t, dir)
	path := filepath.Join(dir, "web.yml")
	key, cert := filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem")
	text := "tls_server_config: {cert_file: cert.pem, key_file: " + key + "}\n"
	pem, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	inline := "tls_server_config:\n  cert_file: cert.pem\n  key: |\n    " +
		strings.ReplaceAll(string(pem), "\n", "\n    ") + "\n"
	for _, c := range []struct {
		text, file string
		mode       os.FileMode
		refused    bool
		warned     bool
	}{
		{text, path, 0o644, false, false}, {text, path, 0o666, true, false},
		{text, key, 0o644, false, true}, {text, key, 0o640, false, false},
		{text, key, 0o660, true, false}, {text, cert, 0o644, false, false},
		{text, cert, 0o664, true, false}, {text, dir, 0o777, true, false},
		{inline, path, 0o644, false, true}, {inline, path, 0o640, false, false},
	} {
		if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(key, 0o600), os.Chmod(cert, 0o600),
			os.WriteFile(path, []byte(c.text), 0o600), os.Chmod(path, 0o600),
			os.Chmod(c.file, c.mode)); err != nil {
			t.Fatal(err)
		}
		warned := ""
		err := CheckWebConfig(path, func(text string) { warned = text })
		if errors.Is(err, config.ErrRefused) != c.refused || !c.refused && err != nil ||
			c.refused && !strings.HasPrefix(err.Error(), c.file+": ") ||
			strings.HasPrefix(warned, c.file+": everybody on this host can read") != c.warned {
			t.Errorf("%s, mode %o: %v; %s", c.file, c.mode, err, warned)
		}
	}
}

// TestTextfileDirectory: a directory that is none is named, and not the file that it would have.
func TestTextfileDirectory(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]error{file: syscall.ENOTDIR,
		filepath.Join(dir, "none"): fs.ErrNotExist} {
		err := WriteTextfile(at, devices)
		if !errors.Is(err, want) || !strings.Contains(err.Error(), at) || strings.Contains(err.
			Error(), textfileName) {
			t.Errorf("%s: %v", at, err)
		}
	}
}
