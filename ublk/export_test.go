package ublk

// FetchMissing lets tests leave a device like a server that dies while it fetches. It fetches from
// as many queues as the DeviceInfo says.
var FetchMissing = fetchMissing

// Rearmings is how often a queue with batch I/O had to ask for requests again because the
// ring was full.
func (q *Queue) Rearmings() int {
	if x, ok := q.exchange.(*batchCommands); ok {
		return x.rearmings
	}
	return 0
}

// Enters is how often the queue's ring has entered the kernel. For the queue's thread.
func Enters(q *Queue) uint64 { return q.ring.Enters() }
