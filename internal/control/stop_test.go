package control

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// TestStopIsCertain: a stop does not happen if nobody waits for it any more when the server could
// begin, however it was given up. A stop that was confirmed happens.
func TestStopIsCertain(t *testing.T) {
	useTempDir(t)
	hold, held := make(chan struct{}), make(chan bool, 1)
	f := &fake{given: make(chan error, 1), asked: func(force bool) {
		held <- force
		<-hold
	}}
	serve(t, "disk", f)

	ctx, cancel := context.WithCancel(context.Background())
	answer := make(chan error, 1)
	go func() { answer <- NewClient("disk").Stop(ctx, false) }()
	if force := <-held; force {
		t.Error("it was asked with force")
	}
	cancel()
	if err := <-answer; err == nil || errors.Is(err, ErrUnderway) {
		t.Errorf("given up before it began: %v", err)
	}
	hold <- struct{}{}
	if err := <-f.given; err == nil || f.stopped != 0 {
		t.Errorf("it began for nobody: %v, %d", err, f.stopped)
	}

	go func() { answer <- NewClient("disk").Stop(context.Background(), true) }()
	if force := <-held; !force {
		t.Error("it was asked without force")
	}
	hold <- struct{}{}
	if err := <-answer; err != nil || f.stopped != 1 {
		t.Errorf("confirmed: %v, %d", err, f.stopped)
	}
}

// TestStopOfOtherClients: for clients that do not wait to be asked the request itself is enough.
func TestStopOfOtherClients(t *testing.T) {
	useTempDir(t)
	f := &fake{}
	serve(t, "disk", f)
	conn, err := net.Dial("unix", SocketPath("disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "POST /v1/stop HTTP/1.1\r\nHost: x\r\nContent-Length: "+
		"0\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(text), "HTTP/1.1 200 ") || f.stopped != 1 {
		t.Errorf("%v, %d: %s", err, f.stopped, text)
	}
}

// TestServerThatSaysNothing: a server that has the connection and does not answer differs from a
// server that is not there. If it answers later, it does not do what it was asked to do.
func TestServerThatSaysNothing(t *testing.T) {
	useTempDir(t)
	l, err := net.Listen("unix", SocketPath("disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := NewClient("disk")
	if _, err := c.StatusWithin(context.Background(), 50*time.Millisecond); !errors.Is(err,
		ErrSilent) {
		t.Errorf("status: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := c.Stop(ctx, false); err == nil || errors.Is(err, ErrUnderway) {
		t.Errorf("stop: %v", err)
	}
	for range 2 {
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(conn)
		if strings.HasSuffix(string(text), goAheadBody) {
			t.Errorf("it was told to go ahead: %q", text)
		}
		conn.Close()
	}
}
