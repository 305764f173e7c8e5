package control

import (
	"sync"
	"time"
)

const (
	// atOnce is how many servers are asked at once. A server that takes longer than busyTime gives
	// up its place, because a host is not kept busy by waiting: so no number of servers that hang
	// makes the others wait for longer than a moment.
	atOnce   = 32
	busyTime = 200 * time.Millisecond
)

// Each asks n servers, some at a time: it calls ask for 0 to n-1, each in a goroutine, and returns
// when all have ended. However many devices a host has, asking them all does not keep it busy. ask
// must have a time limit of its own.
func Each(n int, ask func(i int)) {
	places := make(chan struct{}, atOnce)
	var asked sync.WaitGroup
	for i := range n {
		places <- struct{}{}
		leave := sync.OnceFunc(func() { <-places })
		late := time.AfterFunc(busyTime, leave)
		asked.Go(func() {
			ask(i)
			if late.Stop() {
				leave()
			}
		})
	}
	asked.Wait()
}
