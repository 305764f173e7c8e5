// Command bom says what programs were linked from: it reads the list of modules that Go left
// in each binary, and their licences from the module cache. The first binary is the program that
// the package is named after; the others are parts of it.
//
//	bom -version VERSION -license FILE -out DIRECTORY BINARY...
//
// It writes into DIRECTORY
//
//	ublk-remap.cdx.json  the list as a CycloneDX document
//	copyright            the same with all licence texts, in Debian's format
//	THIRD-PARTY          the licence texts of the modules, for people
//	spdx                 all licences as one SPDX expression
//
// A module whose licence is not recognized is an error. The same binary gives the same files:
// the time in them is SOURCE_DATE_EPOCH.
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"time"
)

// program is what is described.
type program struct {
	version  string
	license  []byte // of the program's own source
	built    time.Time
	binaries []*binary
	parts    []*part // of all binaries
}

// binary is a file that Go linked.
type binary struct {
	name string // of the file
	sum  [sha256.Size]byte
	info *debug.BuildInfo
}

func main() {
	version := flag.String("version", "", "the program's version")
	license := flag.String("license", "LICENSE", "the program's own licence")
	out := flag.String("out", ".", "where to write")
	flag.Parse()
	if flag.NArg() == 0 || *version == "" {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(flag.Args(), *version, *license, *out); err != nil {
		fmt.Fprintf(os.Stderr, "bom: %v\n", err)
		os.Exit(1)
	}
}

func run(binaries []string, version, license, out string) error {
	p, err := read(binaries, version, license)
	if err != nil {
		return err
	}
	document, err := p.cycloneDX()
	if err != nil {
		return err
	}
	write := func(name string, text []byte) error {
		return os.WriteFile(filepath.Join(out, name), text, 0o644)
	}
	return errors.Join(write("ublk-remap.cdx.json", document), write("copyright", p.copyright()),
		write("THIRD-PARTY", p.thirdParty()), write("spdx", []byte(p.spdx()+"\n")))
}

// read looks into binaries and for the licences of what is in them.
func read(paths []string, version, license string) (*program, error) {
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	p := &program{version: version, built: time.Unix(seconds, 0).UTC()}
	if p.license, err = os.ReadFile(license); err != nil {
		return nil, err
	}
	for _, path := range paths {
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			return nil, err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		p.binaries = append(p.binaries, &binary{filepath.Base(path), sha256.Sum256(text), info})
	}
	p.parts, err = partsOf(p.binaries)
	return p, err
}
