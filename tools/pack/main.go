// Command pack builds one package by nfpm, as its own command does, and signs it:
//
//	pack -config packaging/nfpm.yaml -format deb -out dist -license 'MIT AND BSD-3-Clause' \
//		-changelog FILE -signer 'scripts/sign KEY'
//
// The signer reads what is to be signed and writes a detached OpenPGP signature. nfpm's own signing
// takes the time from the clock and adds random bytes; no two such packages are the same. pack
// prints the package's name.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

type options struct {
	config, format, out        string
	license, changelog, signer string
}

func main() {
	var o options
	flag.StringVar(&o.config, "config", "packaging/nfpm.yaml", "nfpm's description")
	flag.StringVar(&o.format, "format", "deb", "deb or rpm")
	flag.StringVar(&o.out, "out", "dist", "the directory for the package")
	flag.StringVar(&o.license, "license", "", "SPDX expression for all that is in the package")
	flag.StringVar(&o.changelog, "changelog", "", "changes, as nfpm wants them")
	flag.StringVar(&o.signer, "signer", "", "a program and its arguments, separated by blanks")
	flag.Parse()
	name, err := pack(o)
	if err != nil {
		fmt.Fprintf(os.Stderr, "pack: %s: %v\n", o.format, err)
		os.Exit(1)
	}
	fmt.Println(name)
}

func pack(o options) (name string, err error) {
	config, err := nfpm.ParseFile(o.config)
	if err != nil {
		return "", err
	}
	info, err := config.Get(o.format)
	if err != nil {
		return "", err
	}
	if o.license != "" {
		info.License = o.license
	}
	info.Changelog = o.changelog
	if info.Contents, err = eachDoc(info.Contents); err != nil {
		return "", err
	}
	if o.signer != "" {
		info.Deb.Signature.SignFn = sign(o.signer, "--armor")
		info.RPM.Signature.SignFn = sign(o.signer)
	}
	info = nfpm.WithDefaults(info)
	packager, err := nfpm.Get(o.format)
	if err != nil {
		return "", err
	}
	name = packager.ConventionalFileName(info)
	info.Target = filepath.Join(o.out, name)
	var text bytes.Buffer
	if err := packager.Package(info, &text); err != nil {
		return "", err
	}
	return name, os.WriteFile(info.Target, text.Bytes(), 0o644)
}

// eachDoc replaces patterns of files that rpm knows as documentation by the files, for nfpm
// takes a pattern only for files of no kind.
func eachDoc(contents files.Contents) (files.Contents, error) {
	var each files.Contents
	for _, c := range contents {
		if c.Type != files.TypeRPMDoc || !strings.HasSuffix(c.Destination, "/") {
			each = append(each, c)
			continue
		}
		paths, err := filepath.Glob(c.Source)
		if err != nil || len(paths) == 0 {
			return nil, fmt.Errorf("%s: no such files (%w)", c.Source, err)
		}
		for _, path := range paths {
			one := *c
			one.Source, one.Destination = path, filepath.Join(c.Destination, filepath.Base(path))
			each = append(each, &one)
		}
	}
	return each, nil
}

// sign returns a function that has a program sign.
func sign(command string, further ...string) func(io.Reader) ([]byte, error) {
	return func(data io.Reader) ([]byte, error) {
		args := append(strings.Fields(command), further...)
		var signature, stderr bytes.Buffer
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = data, &signature, &stderr
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", args[0], err, stderr.String())
		}
		if signature.Len() == 0 {
			return nil, errors.New(args[0] + ": it gave no signature")
		}
		return signature.Bytes(), nil
	}
}
