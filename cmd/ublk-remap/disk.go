package main

import (
	"context"
	"errors"
	"os"
	"strings"

	"ublkremap/internal/host"
	"ublkremap/internal/host/set"
)

// diskOf returns the path of the disk that a user means by a path, or by the name or the UUID of a
// set. What has no slash in it is a set first. A file of the working directory counts whatever is
// on it.
func diskOf(ctx context.Context, what string) (string, error) {
	if what == "" || strings.Contains(what, "/") {
		return what, nil // opening it tells what is wrong
	}
	b, err := host.FindBacking(ctx, what, "")
	if err == nil {
		return b.Path, nil
	}
	if _, statErr := os.Stat(what); statErr == nil && !errors.Is(err, set.ErrAmbiguous) {
		return what, nil
	}
	return "", err
}
