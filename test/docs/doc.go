// Package docs has tests of the documents: what they say about the code must be true. It has no
// code of its own.
package docs
