package server

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"
)

// This file finds out whether the program itself works, for a watchdog that would kill it
// otherwise.
//
// The keeper and each queue's thread are asked for a sign. None of them ever waits for a disk in
// this program: a disk that hangs does not keep them from answering. A thread of a queue can still
// be held up by the kernel when it hands an operation to a disk. Such a thread does not count as
// hung, because killing the process would not end that wait either.

// aliveEvery is how often the threads are asked, and how long they have for the answer.
const aliveEvery = 5 * time.Second

// sign asks a queue's thread for a sign of life, which Wake gives.
func (h *queue) sign() {
	h.signs.Add(1)
	h.q.Wakeup()
}

// silent reports whether the sign that was asked for last has not come.
func (h *queue) silent() bool { return h.signed.Load() != h.signs.Load() }

// watchLife calls cfg.Alive again and again while the keeper and the queues answer, until end is
// closed. If one of them does not answer it says so in the log, once, and calls nothing until it
// does.
func (s *server) watchLife(end <-chan struct{}) {
	tick := time.NewTicker(aliveEvery)
	defer tick.Stop()
	told := false
	for {
		s.keeper.askQueues()
		select {
		case <-end:
			return
		case <-tick.C:
		}
		hung := ""
		if s.endsBy() == endNot { // else the threads end, or have ended
			hung = s.keeper.hung(aliveEvery)
		}
		switch {
		case hung == "":
			told = false
			s.cfg.Alive()
		case !told:
			told = true
			s.log.Error().Str("hung", hung).Msg("a part of the server does not answer")
		}
	}
}

// askQueues asks every queue for a sign of life.
func (k *keeper) askQueues() {
	for i := range k.queues {
		if q := k.queues[i].Load(); q != nil && !q.silent() {
			q.sign()
		}
	}
}

// hung names a part of the server that has not answered; "" if all have. The keeper has until limit
// for that.
func (k *keeper) hung(limit time.Duration) string {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := k.call(ctx, func() {}); err != nil && ctx.Err() != nil {
		return "the keeper"
	}
	for i := range k.queues {
		if q := k.queues[i].Load(); q != nil && q.silent() && !inKernel(q.tid) {
			return fmt.Sprintf("queue %d", i)
		}
	}
	return ""
}

// inKernel reports whether a thread of this process waits in the kernel and cannot be interrupted.
func inKernel(tid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/stat", tid))
	if err != nil {
		return false
	}
	// proc_pid_stat(5): the state comes after the name in parentheses.
	state := bytes.TrimLeft(stat[bytes.LastIndexByte(stat, ')')+1:], " ")
	return len(state) > 0 && state[0] == 'D'
}
