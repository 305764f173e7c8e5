package main

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// spdx returns what all of the program is under, as rpm packages say it.
func (p *program) spdx() string {
	ids := []string{"MIT"}
	for _, part := range p.parts {
		for _, id := range part.spdx {
			if !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	slices.Sort(ids[1:])
	return strings.Join(ids, " AND ")
}

const heading = `Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: ublk-remap
Comment: The program is linked statically. The entries below modules/ are for
 the Go modules that are part of it, with the texts that came with each.

`

// copyright is Debian's file (the format is that of the link in the heading).
func (p *program) copyright() []byte {
	var b bytes.Buffer
	b.WriteString(heading)
	own := string(p.license)
	fmt.Fprintf(&b, "Files: *\nCopyright: %s\nLicense: Expat\n%s",
		strings.Join(holders(own), "\n "), indent(own))
	for _, part := range p.parts {
		fmt.Fprintf(&b, "\nFiles: modules/%s/*\nCopyright: %s\nLicense: %s\n%s", part.name(),
			strings.Join(part.holders, "\n "), debianNames(part.spdx),
			indent(part.debianText()))
	}
	return b.Bytes()
}

// debianText is the texts of a part, but for one that each Debian has.
func (p *part) debianText() string {
	var b strings.Builder
	for _, text := range p.texts {
		if strings.Contains(text, "TERMS AND CONDITIONS FOR USE, REPRODUCTION") {
			text = "The Apache License, version 2.0. Debian systems have its full text in\n" +
				"/usr/share/common-licenses/Apache-2.0.\n"
		}
		b.WriteString(text + "\n")
	}
	return b.String()
}

// debianNames are Debian's words for the licences that it calls otherwise.
func debianNames(ids []string) string {
	var names []string
	for _, id := range ids {
		if id == "MIT" {
			id = "Expat"
		}
		names = append(names, id)
	}
	return strings.Join(names, " and ")
}

var blank = regexp.MustCompile(`^\s*$`)

// indent makes a text a field's further lines.
func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(strings.TrimSpace(text) + "\n") {
		line = strings.TrimRight(line, " \t\n\f")
		if blank.MatchString(line) {
			line = "."
		}
		b.WriteString(" " + line + "\n")
	}
	return b.String()
}

func (p *program) thirdParty() []byte {
	var b bytes.Buffer
	b.WriteString("ublk-remap is linked statically. These modules are part of it:\n")
	for _, part := range p.parts {
		fmt.Fprintf(&b, "\n%s\n%s (%s)\n\n%s", strings.Repeat("=", 72), part.name(),
			strings.Join(part.spdx, " AND "), strings.Join(part.texts, "\n"))
	}
	return b.Bytes()
}
