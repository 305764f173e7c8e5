package logging

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// slow is a writer that can be made to wait.
type slow struct {
	gate sync.Mutex
	out  bytes.Buffer
}

func (s *slow) Write(p []byte) (int, error) {
	s.gate.Lock()
	defer s.gate.Unlock()
	return s.out.Write(p)
}

func TestAsyncNeverWaits(t *testing.T) {
	s := &slow{}
	a := newAsync(s)
	log := zerolog.New(a)
	s.gate.Lock()
	const lines = 3 * asyncLines
	for range lines {
		// with the gate closed none of this may wait
		log.Info().Str("text", strings.Repeat("x", asyncBytes)).Msg("m")
	}
	a.Close(10 * time.Millisecond) // nor this
	s.gate.Unlock()
	<-a.done
	got := strings.Split(strings.TrimSuffix(s.out.String(), "\n"), "\n")
	// The writer had one line. The number of dropped lines is reported when that line was written,
	// and again after the next lines.
	if len(got) < asyncLines || len(got) > asyncLines+4 || !strings.Contains(s.out.String(),
		`"message":"the log could not keep up`) {
		t.Errorf("%d lines of %d: %s", len(got), lines, got[len(got)-1])
	}
}

func TestAsyncKeepsOrder(t *testing.T) {
	var out bytes.Buffer
	a := newAsync(&out)
	log := zerolog.New(a)
	var want bytes.Buffer
	direct := zerolog.New(&want)
	for i := range asyncLines / 2 {
		log.Info().Int("i", i).Msg("m")
		direct.Info().Int("i", i).Msg("m")
	}
	a.Close(time.Minute)
	if !bytes.Equal(out.Bytes(), want.Bytes()) {
		t.Errorf("%d bytes, want %d", out.Len(), want.Len())
	}
}
