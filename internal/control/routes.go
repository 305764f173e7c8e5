package control

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// router passes requests on to a Handler.
type router struct {
	h Handler
	// How many tables are being sent, and how many moves are waiting or under way.
	lists, moves limit
}

func routes(h Handler) http.Handler {
	r := &router{h: h, lists: make(limit, maxLists), moves: make(limit, maxMoves)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", r.status)
	mux.HandleFunc("GET /v1/remaps", r.list)
	mux.HandleFunc("GET /v1/surface", r.surface)
	mux.HandleFunc("GET /v1/snapshot/{cursor}", r.snapshot)
	mux.HandleFunc("GET /v1/events/{from}", r.events)
	mux.HandleFunc("POST /v1/drill/{do}", r.drill)
	mux.HandleFunc("GET /v1/latencies", r.latencies)
	mux.HandleFunc("POST /v1/remaps/add", r.move(h.AddRemaps))
	mux.HandleFunc("POST /v1/remaps/remove", r.move(h.RemoveRemaps))
	mux.HandleFunc("POST /v1/remaps/takeback", r.move(h.TakeBackRemaps))
	mux.HandleFunc("POST /v1/remaps/mark", ofRanges(r, h.MarkRemaps))
	mux.HandleFunc("POST /v1/remaps/rescue", ofRanges(r, h.RescueRemaps))
	mux.HandleFunc("POST /v1/fill/{block}", r.fill)
	mux.HandleFunc("POST /v1/heal-free", ofBody(r, readRows, h.HealFree))
	mux.HandleFunc("POST /v1/scrub", r.scrub)
	mux.HandleFunc("POST /v1/retest", r.startRetest)
	mux.HandleFunc("GET /v1/retest", retest(h.Retest))
	mux.HandleFunc("POST /v1/retest/stop", retest(h.StopRetest))
	mux.HandleFunc("POST /v1/resume", r.resume)
	mux.HandleFunc("POST /v1/stop", r.stop)
	mux.HandleFunc("POST /v1/leave/{token}", byToken(h.Leave))
	mux.HandleFunc("POST /v1/stay/{token}", byToken(h.Stay))
	return mux
}

func (r *router) status(w http.ResponseWriter, req *http.Request) {
	begun(req)
	v, err := r.h.Status(req.Context())
	reply(w, v, err)
}

// enterLists takes one of the places for sending a table. If there is none it answers the request.
func (r *router) enterLists(w http.ResponseWriter) bool {
	if !r.lists.enter() {
		reply(w, nil, fmt.Errorf("%w: it sends %d tables already; try again", ErrBusy, maxLists))
		return false
	}
	return true
}

func (r *router) list(w http.ResponseWriter, req *http.Request) {
	begun(req)
	if !r.enterLists(w) {
		return
	}
	defer r.lists.leave()
	sendList(w, req, r.h)
}

func (r *router) snapshot(w http.ResponseWriter, req *http.Request) {
	begun(req)
	cursor, err := strconv.ParseUint(req.PathValue("cursor"), 10, 64)
	if err != nil {
		reply(w, nil, fmt.Errorf("%w: cursor %q", ErrInvalid, req.PathValue("cursor")))
		return
	}
	if !r.enterLists(w) {
		return
	}
	defer r.lists.leave()
	v, err := r.h.Snapshot(req.Context(), cursor)
	reply(w, v, err)
}

func (r *router) drill(w http.ResponseWriter, req *http.Request) {
	begun(req)
	ctx, cancel := context.WithTimeout(req.Context(), DrillTimeout)
	defer cancel()
	v, err := r.h.Drill(ctx, req.PathValue("do"))
	reply(w, v, err)
}

func (r *router) events(w http.ResponseWriter, req *http.Request) {
	begun(req)
	from, err := strconv.ParseUint(req.PathValue("from"), 10, 64)
	if err != nil {
		reply(w, nil, fmt.Errorf("%w: number %q", ErrInvalid, req.PathValue("from")))
		return
	}
	v, err := r.h.Events(req.Context(), from)
	reply(w, v, err)
}

// move answers a request to move blocks. A client that moves piece by piece (partial=true) is told
// in the reply, and not by an error, that blocks stay where they are.
func (r *router) move(f func(context.Context, []Range) (MoveReply, error)) http.HandlerFunc {
	whole := ofRanges(r, f)
	partial := ofRanges(r, func(ctx context.Context, ranges []Range) (MoveReply, error) {
		m, err := f(ctx, ranges)
		if m.Failed+m.NoCopy > 0 {
			err = nil
		}
		return m, err
	})
	return func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Query().Get("partial") == "true" {
			partial(w, req)
			return
		}
		whole(w, req)
	}
}

// ofRanges answers a request whose body is a MoveRequest.
func ofRanges[T any](r *router, f func(context.Context, []Range) (T, error)) http.HandlerFunc {
	return ofBody(r, readRanges, f)
}

// ofBody answers requests whose body read reads, by f, which moves blocks.
func ofBody[B, T any](r *router, read func(io.Reader) (B, error),
	f func(context.Context, B) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		body := http.MaxBytesReader(w, req.Body, maxBody)
		ask, err := read(body)
		if err != nil {
			// A client that is still sending would not see an answer, because its connection
			// breaks.
			_, _ = io.Copy(io.Discard, body)
			reply(w, nil, err)
			return
		}
		moving(r, w, req, func(ctx context.Context) (T, error) { return f(ctx, ask) })
	}
}

// moving answers a request whose body was read, by moving blocks. Only so many requests may do so
// at once.
func moving[T any](r *router, w http.ResponseWriter, req *http.Request,
	f func(context.Context) (T, error)) {
	begun(req)
	if !r.moves.enter() {
		reply(w, nil, fmt.Errorf("%w: %d moves wait already; try again", ErrBusy, maxMoves))
		return
	}
	defer r.moves.leave()
	ctx, cancel := context.WithTimeout(req.Context(), MoveTimeout)
	defer cancel()
	done, err := f(ctx)
	reply(w, done, err)
}

// fill answers a request whose body is the data of blocks.
func (r *router) fill(w http.ResponseWriter, req *http.Request) {
	block, err := strconv.ParseUint(req.PathValue("block"), 10, 64)
	body := http.MaxBytesReader(w, req.Body, maxBody)
	data, readErr := io.ReadAll(io.LimitReader(body, MaxFill+1))
	switch {
	case err != nil:
		err = fmt.Errorf("%w: block %.40q", ErrInvalid, req.PathValue("block"))
	case readErr != nil:
		err = fmt.Errorf("%w: %w", ErrInvalid, readErr)
	case len(data) == 0 || len(data) > MaxFill:
		err = fmt.Errorf("%w: want 1 to %d bytes of data", ErrInvalid, MaxFill)
	}
	if err != nil {
		_, _ = io.Copy(io.Discard, body)
		reply(w, nil, err)
		return
	}
	moving(r, w, req, func(ctx context.Context) (FillReply, error) {
		return r.h.Fill(ctx, block, data)
	})
}

func (r *router) scrub(w http.ResponseWriter, req *http.Request) {
	var ask ScrubRequest
	d := json.NewDecoder(http.MaxBytesReader(w, req.Body, maxScrubBody))
	if err := d.Decode(&ask); err != nil {
		reply(w, nil, fmt.Errorf("%w: a request of the scrub: %w", ErrInvalid, err))
		return
	}
	begun(req)
	v, err := r.h.Scrub(req.Context(), ask)
	reply(w, v, err)
}

func (r *router) resume(w http.ResponseWriter, req *http.Request) {
	begun(req)
	err := goAhead(w, req)
	if err == nil {
		err = r.h.Resume(req.Context())
	}
	reply(w, struct{}{}, err)
}

func (r *router) stop(w http.ResponseWriter, req *http.Request) {
	begun(req)
	err := r.h.Stop(req.Context(), req.URL.Query().Get("force") == "true",
		func() error { return goAhead(w, req) })
	reply(w, struct{}{}, err)
}

// byToken answers a request that names by a token in whose name it is made.
func byToken(f func(context.Context, string) error) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		begun(req)
		reply(w, struct{}{}, f(req.Context(), req.PathValue("token")))
	}
}
