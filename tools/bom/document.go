package main

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/uuid"
)

// specVersion is one that the tools of 2026 read; newer ones add nothing that is used here.
const specVersion = cdx.SpecVersion1_6

// cycloneDX writes the document: the first binary, the others as parts of it, the modules, and
// which binary depends on which module. (A binary does not say which module needs which.)
func (p *program) cycloneDX() ([]byte, error) {
	b := cdx.NewBOM()
	// The name of these very binaries.
	var sums []byte
	var programs []cdx.Component
	var depends []cdx.Dependency
	for _, bin := range p.binaries {
		sums = append(sums, bin.sum[:]...)
		c := bin.component(p.version)
		programs = append(programs, c)
		var refs []string
		for _, part := range bin.linked() {
			refs = append(refs, part.ref())
		}
		slices.Sort(refs)
		depends = append(depends, cdx.Dependency{Ref: c.BOMRef, Dependencies: &refs})
	}
	b.SerialNumber = uuid.NewSHA1(uuid.NameSpaceOID, sums).URN()
	main := programs[0]
	if further := programs[1:]; len(further) > 0 {
		main.Components = &further
	}
	b.Metadata = &cdx.Metadata{Timestamp: p.built.Format(time.RFC3339), Component: &main}
	var components []cdx.Component
	for _, part := range p.parts {
		components = append(components, part.component())
	}
	b.Components = &components
	b.Dependencies = &depends
	var text bytes.Buffer
	err := cdx.NewBOMEncoder(&text, cdx.BOMFileFormatJSON).SetPretty(true).
		EncodeVersion(b, specVersion)
	return text.Bytes(), err
}

// component describes a binary.
func (b *binary) component(version string) cdx.Component {
	var properties []cdx.Property
	for _, s := range b.info.Settings {
		switch s.Key {
		case "GOOS", "GOARCH", "GOAMD64", "GOARM64", "CGO_ENABLED":
			properties = append(properties, cdx.Property{Name: "go:" + s.Key, Value: s.Value})
		}
	}
	return cdx.Component{
		BOMRef: b.name, Type: cdx.ComponentTypeApplication, Name: b.name, Version: version,
		PackageURL: "pkg:generic/" + b.name + "@" + version, Licenses: licences([]string{"MIT"}),
		Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256,
			Value: fmt.Sprintf("%x", b.sum)}},
		Properties: &properties,
	}
}

// ref is what the document calls a part.
func (p *part) ref() string { return "pkg:golang/" + p.name() }

func (p *part) component() cdx.Component {
	purl := p.ref()
	c := cdx.Component{
		BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: p.path, Version: p.version,
		PackageURL: purl, Scope: cdx.ScopeRequired, Licenses: licences(p.spdx),
	}
	if p.sum != "" {
		c.Properties = &[]cdx.Property{{Name: "go:sum", Value: p.sum}}
	}
	return c
}

func licences(ids []string) *cdx.Licenses {
	var l cdx.Licenses
	for _, id := range ids {
		l = append(l, cdx.LicenseChoice{License: &cdx.License{ID: id}})
	}
	return &l
}
