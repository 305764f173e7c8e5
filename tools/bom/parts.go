package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// part is a module that was linked in, or Go's standard library.
type part struct {
	path, version string
	sum           string // as in go.sum; empty for the standard library
	spdx          []string
	holders       []string
	texts         []string // of its licences and notices, in the order of their files' names
}

// standardLibrary is what vulnerability databases call Go's own packages.
const standardLibrary = "std"

// linked returns the parts of a binary as Go noted them, without their licences.
func (b *binary) linked() []*part {
	parts := []*part{{path: standardLibrary, version: strings.TrimPrefix(b.info.GoVersion, "go")}}
	for _, m := range b.info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		parts = append(parts, &part{path: m.Path, version: m.Version, sum: m.Sum})
	}
	return parts
}

// partsOf finds the parts of binaries with their licences, in the order of their paths. A part of
// several binaries is named once: they come from one go.mod.
func partsOf(binaries []*binary) ([]*part, error) {
	var parts []*part
	args := []string{"mod", "download", "-json"}
	seen := map[string]bool{}
	for _, b := range binaries {
		for _, p := range b.linked() {
			if seen[p.name()] {
				continue
			}
			seen[p.name()] = true
			parts = append(parts, p)
			if p.path != standardLibrary {
				args = append(args, p.name())
			}
		}
	}
	dirs, err := moduleDirs(args)
	if err != nil {
		return nil, err
	}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	dirs[parts[0].name()] = strings.TrimSpace(string(root))
	for _, p := range parts {
		if err := p.readLicences(dirs[p.name()]); err != nil {
			return nil, fmt.Errorf("%s: %w", p.name(), err)
		}
	}
	slices.SortFunc(parts, func(a, b *part) int { return strings.Compare(a.path, b.path) })
	return parts, nil
}

func (p *part) name() string { return p.path + "@" + p.version }

// moduleDirs runs go mod download and returns where each module lies.
func moduleDirs(args []string) (map[string]string, error) {
	var stderr bytes.Buffer
	cmd := exec.Command("go", args...)
	// Modules are named with their versions, so no go.mod influences them.
	cmd.Dir, cmd.Stderr = os.TempDir(), &stderr
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go mod download: %w: %s %s", err, out, &stderr)
	}
	dirs := map[string]string{}
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var m struct{ Path, Version, Dir string }
		if err := d.Decode(&m); err != nil {
			return nil, err
		}
		dirs[m.Path+"@"+m.Version] = m.Dir
	}
	return dirs, nil
}

// licenceFile matches the names of files with the licences and notices of a module.
var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)([-._].*)?$`)

// holder matches lines that say who owns a work. It does not match a [year] or a {name} in the
// licence's own advice, or a sentence of the licence that begins with the word.
var holder = regexp.MustCompile(`(?mi)^[\s*/#>]*copyright\s+((?:\(c\)|©)\s*[^\s\[{].*|\d{4}.*)$`)

// notice are what licensecheck recognizes besides licences. They stand in the texts.
var notice = []string{"GooglePatentsFile"}

func (p *part) readLicences(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() || !licenceFile.MatchString(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		for _, m := range licensecheck.Scan(text).Match {
			if !m.IsURL && !slices.Contains(notice, m.ID) && !slices.Contains(p.spdx, m.ID) {
				p.spdx = append(p.spdx, m.ID)
			}
		}
		p.texts = append(p.texts, strings.ReplaceAll(string(text), "\r\n", "\n"))
		for _, line := range holders(string(text)) {
			if !slices.Contains(p.holders, line) {
				p.holders = append(p.holders, line)
			}
		}
	}
	if len(p.spdx) == 0 {
		return errors.New("no licence that is recognized lies in " + dir)
	}
	slices.Sort(p.spdx)
	if len(p.holders) == 0 {
		p.holders = []string{"The authors of " + p.path}
	}
	return nil
}

// holders returns the years and names in a text, without the word and the sign before them.
func holders(text string) []string {
	var found []string
	for _, m := range holder.FindAllStringSubmatch(text, -1) {
		line := strings.TrimSpace(m[1])
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimPrefix(line, "(c)"), "(C)"))
		found = append(found, strings.TrimSpace(strings.TrimPrefix(line, "©")))
	}
	return found
}
