package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// readRanges reads a MoveRequest piece by piece. So its cost is bounded by what is accepted, and
// not by what was sent. The error is ErrInvalid.
func readRanges(r io.Reader) ([]Range, error) {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	bad := func(err error) ([]Range, error) {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, noEOF(err))
	}
	if err := expect(d, json.Delim('{')); err != nil {
		return bad(err)
	}
	if err := expect(d, "ranges"); err != nil {
		return bad(err)
	}
	if err := expect(d, json.Delim('[')); err != nil {
		return bad(err)
	}
	var ranges []Range
	for d.More() {
		if len(ranges) == maxRanges {
			return bad(fmt.Errorf("more than %d ranges", maxRanges))
		}
		var g Range
		if err := d.Decode(&g); err != nil {
			return bad(err)
		}
		if g.Count == 0 || g.Block+g.Count < g.Block {
			return bad(fmt.Errorf("blocks %d+%d", g.Block, g.Count))
		}
		ranges = append(ranges, g)
	}
	if err := expect(d, json.Delim(']')); err != nil {
		return bad(err)
	}
	if err := expect(d, json.Delim('}')); err != nil {
		return bad(err)
	}
	if err := end(d); err != nil {
		return bad(err)
	}
	if len(ranges) == 0 {
		return bad(errors.New("no ranges"))
	}
	return ranges, nil
}

// expect reads one token, which must be want.
func expect(d *json.Decoder, want json.Token) error {
	got, err := d.Token()
	if err == nil && got != want {
		// The message does not repeat the wrong token, which can be a string of any length.
		err = fmt.Errorf("want %v before byte %d", want, d.InputOffset())
	}
	return err
}

// end checks that nothing follows.
func end(d *json.Decoder) error {
	_, err := d.Token()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("something follows the end at byte %d", d.InputOffset())
	}
	return err
}

// noEOF makes an error of a document that breaks off, which differs from the end of a document.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// pacedWriter writes to a client that must keep up. The client has sendTimeout for each piece, and
// until the deadline for all of them.
type pacedWriter struct {
	w        http.ResponseWriter
	control  *http.ResponseController
	deadline time.Time
}

func (p *pacedWriter) Write(b []byte) (int, error) {
	next := time.Now().Add(sendTimeout)
	if next.After(p.deadline) {
		next = p.deadline
	}
	_ = p.control.SetWriteDeadline(next) // fails on a pipe of a test
	return p.w.Write(b)
}

// sendList sends the table as one JSON array during the walk over it. If it cannot continue it cuts
// the connection, so that the client does not mistake the part that it has for the whole.
func sendList(w http.ResponseWriter, r *http.Request, h Handler) {
	out := bufio.NewWriterSize(&pacedWriter{w, http.NewResponseController(w),
		time.Now().Add(sendLimit)}, sendPiece)
	sep := byte('[')
	err := h.Remaps(r.Context(), func(m Remap) error {
		b, err := json.Marshal(m)
		if err != nil {
			return err
		}
		if sep == '[' {
			w.Header().Set("Content-Type", "application/json")
		}
		_ = out.WriteByte(sep) // the next Write returns the error
		sep = ','
		_, err = out.Write(b)
		return err
	})
	switch {
	case err != nil && sep == '[':
		reply(w, nil, err)
		return
	case err != nil:
		panic(http.ErrAbortHandler)
	case sep == '[':
		w.Header().Set("Content-Type", "application/json")
		_ = out.WriteByte('[')
	}
	_, _ = out.WriteString("]\n")
	if out.Flush() != nil {
		panic(http.ErrAbortHandler)
	}
}

// maxHealed is how many rows one request may have: as many as blocks.
const maxHealed = MaxFill / 512

// readRows reads a HealRequest. The error is ErrInvalid.
func readRows(r io.Reader) ([]Remap, error) {
	var ask HealRequest
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(&ask); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, noEOF(err))
	}
	if len(ask.Rows) == 0 || len(ask.Rows) > maxHealed {
		return nil, fmt.Errorf("%w: want 1 to %d rows", ErrInvalid, maxHealed)
	}
	return ask.Rows, nil
}
