package host

import "errors"

var (
	// ErrNotFound is returned when no device here has that name.
	ErrNotFound = errors.New("not found")
	// ErrRefused is returned when an operation could destroy data, or take a device from its users.
	ErrRefused = errors.New("refused")
	// ErrServed is returned when a server for the same disk, or of the same device, is running.
	ErrServed = errors.New("it is being served already")
)

// ServedError is ErrServed with a text that also says what to do.
type ServedError struct{ Text string }

func (e *ServedError) Error() string { return e.Text }
func (e *ServedError) Unwrap() error { return ErrServed }

// Advised reports that the text says what to do.
func (e *ServedError) Advised() bool { return true }
