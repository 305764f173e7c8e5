package lists

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// readAll reads a document of at most maxBytes.
func readAll(in io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(in, maxBytes+1))
	if err == nil && len(b) > maxBytes {
		err = fmt.Errorf("%w: more than %d MiB", ErrList, maxBytes>>20)
	}
	return b, err
}

// decode decodes a JSON document. An error gets the line where it is.
func (r *reader) decode(b []byte, v any) error {
	err := json.Unmarshal(b, v)
	if err == nil {
		return nil
	}
	at := int64(len(b))
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		at = syntax.Offset
	case errors.As(err, &kind):
		at = kind.Offset
		err = fmt.Errorf("%s is a JSON %s", kind.Field, kind.Value)
	}
	r.line = 1 + bytes.Count(b[:min(at, int64(len(b)))], []byte("\n"))
	return fmt.Errorf("%w: %w", ErrList, err)
}
