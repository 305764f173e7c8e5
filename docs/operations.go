// Package docs has those pages of this directory that the program itself shows.
package docs

import _ "embed"

// Operations is OPERATIONS.md: one section for each alert, which messages about it quote.
//
//go:embed OPERATIONS.md
var Operations string
