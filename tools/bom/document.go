package main

import (
	"bytes"
	"fmt"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/uuid"
)

// specVersion is one that the tools of 2026 read; newer ones add nothing that is used here.
const specVersion = cdx.SpecVersion1_6

// cycloneDX writes the document: the program, its parts, and that it depends on each of them. (A
// binary does not say which part needs which.)
func (p *program) cycloneDX() ([]byte, error) {
	b := cdx.NewBOM()
	// The name of this very binary.
	b.SerialNumber = uuid.NewSHA1(uuid.NameSpaceOID, p.sum[:]).URN()
	main := cdx.Component{
		BOMRef: "ublk-remap", Type: cdx.ComponentTypeApplication, Name: "ublk-remap",
		Version: p.version, PackageURL: "pkg:generic/ublk-remap@" + p.version,
		Licenses: licences([]string{"MIT"}),
		Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256,
			Value: fmt.Sprintf("%x", p.sum)}},
	}
	b.Metadata = &cdx.Metadata{Timestamp: p.built.Format(time.RFC3339), Component: &main}
	var properties []cdx.Property
	for _, s := range p.info.Settings {
		switch s.Key {
		case "GOOS", "GOARCH", "GOAMD64", "GOARM64", "CGO_ENABLED":
			properties = append(properties, cdx.Property{Name: "go:" + s.Key, Value: s.Value})
		}
	}
	main.Properties = &properties
	var components []cdx.Component
	var refs []string
	for _, part := range p.parts {
		c := part.component()
		components, refs = append(components, c), append(refs, c.BOMRef)
	}
	b.Components = &components
	b.Dependencies = &[]cdx.Dependency{{Ref: main.BOMRef, Dependencies: &refs}}
	var text bytes.Buffer
	err := cdx.NewBOMEncoder(&text, cdx.BOMFileFormatJSON).SetPretty(true).
		EncodeVersion(b, specVersion)
	return text.Bytes(), err
}

func (p *part) component() cdx.Component {
	purl := "pkg:golang/" + p.path + "@" + p.version
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
