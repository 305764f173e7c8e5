package server

import (
	"sync"

	"ublkremap/remap"
)

// mailbox carries messages one way between a queue thread and the keeper. It is preallocated for
// what a queue can have under way: for each tag one message that waits for its answer and one
// earlier message without answer, and a few messages that concern no tag. If that is ever too
// little, it grows, so that no message is lost.
type mailbox struct {
	mu   sync.Mutex
	in   []remap.Message
	away []remap.Message // being read by the receiver
}

func newMailbox(depth int) *mailbox {
	n := 2*depth + 16
	return &mailbox{in: make([]remap.Message, 0, n), away: make([]remap.Message, 0, n)}
}

// put adds a message.
func (b *mailbox) put(m *remap.Message) {
	b.mu.Lock()
	b.in = append(b.in, *m)
	b.mu.Unlock()
}

// take returns what has come since the last take, in order. It is valid until
// the next take.
func (b *mailbox) take() []remap.Message {
	b.mu.Lock()
	b.in, b.away = b.away[:0], b.in
	b.mu.Unlock()
	return b.away
}
