package main

import (
	"fmt"
	"io"
	"os"
)

// readInput calls f with the file that a verb was told to read, or with standard input if that is
// "-". name is what errors call it. f must change nothing: it is left alone if the user interrupts,
// because a pipe that nobody writes to can keep it for ever.
func (a *app) readInput(file string, f func(in io.Reader, name string) error) error {
	done := make(chan error, 1)
	go func() {
		if file == "-" {
			done <- f(a.in, "standard input")
			return
		}
		in, err := os.Open(file)
		if err != nil {
			done <- err
			return
		}
		defer in.Close()
		done <- f(in, file)
	}()
	select {
	case err := <-done:
		return err
	case <-a.ctx.Done():
		return fmt.Errorf("%s: interrupted before all of it was read; nothing was changed", file)
	}
}
