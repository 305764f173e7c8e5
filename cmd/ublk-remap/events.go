package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ublkremap/cmd/ublk-remap/internal/recorder"
	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/internal/host"
	"ublkremap/internal/host/set"
	"ublkremap/internal/readable"
	"ublkremap/metadata"
)

func eventsCommand(a *app) *cobra.Command {
	var follow bool
	var spares []string
	cmd := &cobra.Command{
		Use:   "events DEV|NAME|DISK",
		Short: "What happened: the flight recorder of a device, or of its disk",
		Long: `Print what happened to a device, oldest first: starts and stops, remaps, blocks
that became pending, spare units that failed, the breaker, flushes that failed,
mirrors of the metadata, I/O that did not come back. For each: the time, what it
was, the first block and the number of blocks, the error, how long it took, what
was done, and the temperature of the disk where the kernel knows it.

The newest events are kept on the disk, some thousands of them. While a server
runs it is asked. Without one they are read from the disk, also from one of
which little else can be read, and from the spare device of a backing that has
died. They are written some seconds after they happened, so the last ones before
a crash can be missing. What comes in floods is counted and not listed one by
one.

With --json each event is one line. With --follow events are printed as they
happen, until it is interrupted, also across an upgrade of the server.`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.host().Lookup(args[0])
			switch {
			case err == nil && control.Owned(r.Name):
				return a.liveEvents(cmd.Context(), r.Name, follow)
			case follow && err == nil:
				return fmt.Errorf("%s: %w, so nothing can be followed", r.Name,
					control.ErrNotRunning)
			case follow:
				return err
			case err == nil:
				return a.diskEvents(cmd.Context(), r.Backing, r.Spares)
			}
			path, pathErr := eventsDisk(cmd.Context(), args[0])
			if pathErr != nil {
				return pathErr
			}
			return a.diskEvents(cmd.Context(), path, spares)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "print events as they happen")
	spareFlag(cmd, &spares)
	a.jsonFlag(cmd)
	return cmd
}

// eventsDisk finds the disk that the user means: a path, or the name or the UUID of a set.
func eventsDisk(ctx context.Context, what string) (string, error) {
	b, err := host.FindBacking(ctx, what, "")
	if err == nil {
		return b.Path, nil
	}
	// The disk may be a spare device, or one of which only a part reads.
	if d, openErr := blockdev.Open(ctx, what, blockdev.Options{ReadOnly: true,
		Shared: true}); openErr == nil {
		return what, d.Close()
	}
	return "", err
}

// diskEvents prints the events that are on the disks of a set.
func (a *app) diskEvents(ctx context.Context, path string, spares []string) error {
	devs, err := eventDevices(ctx, path, spares)
	if err != nil {
		return err
	}
	defer devs.Close()
	list, err := metadata.EventsOn(devs.Metadata())
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	p := eventPrinter{app: a}
	return p.print(list)
}

// eventDevices opens the disks of a set, as far as they are there. A spare device is taken by
// itself.
func eventDevices(ctx context.Context, path string, spares []string) (*set.Set, error) {
	s, err := host.OpenToRead(ctx, path, spares, true)
	if err == nil {
		return s, nil
	}
	s = &set.Set{}
	for _, p := range append([]string{path}, spares...) {
		d, openErr := blockdev.Open(ctx, p, blockdev.Options{ReadOnly: true, Shared: true})
		if openErr == nil {
			s.Devices = append(s.Devices, d)
		}
	}
	if len(s.Devices) == 0 {
		return nil, err
	}
	return s, nil
}

// Between two questions of --follow.
const (
	eventsEvery = 500 * time.Millisecond
	// eventsAbsent is how long a server may be away, as during an upgrade or a recovery.
	eventsAbsent = time.Minute
)

// liveEvents prints the events that a server keeps, and with follow those that come.
func (a *app) liveEvents(ctx context.Context, name string, follow bool) error {
	p := eventPrinter{app: a}
	var seen recorder.Place
	answered := time.Now()
	for {
		list, err := recorder.Since(ctx, name, &seen)
		switch {
		case ctx.Err() != nil && follow:
			return nil
		case err != nil && follow && time.Since(answered) < eventsAbsent && p.begun &&
			(errors.Is(err, control.ErrNotRunning) || errors.Is(err, control.ErrSilent) ||
				errors.Is(err, control.ErrBusy) || errors.Is(err, fs.ErrNotExist)):
			// Its server may be changing.
		case err != nil:
			return err
		default:
			answered = time.Now()
			if err := p.print(list); err != nil {
				return err
			}
		}
		if !follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(eventsEvery):
		}
	}
}

var eventHeader = []string{"TIME", "WHAT", "BLOCK", "COUNT", "ERROR", "TOOK", "TEMP", "DONE"}

// eventPrinter prints events as they come.
type eventPrinter struct {
	app    *app
	begun  bool // it was asked to print, if only that there is nothing
	headed bool
}

func (p *eventPrinter) print(list []metadata.Event) error {
	a := p.app
	if len(list) == 0 && !p.begun && !a.json {
		p.begun = true
		_, err := fmt.Fprintln(a.out, "nothing has happened yet")
		return err
	}
	if len(list) > 0 && !p.headed && !a.json {
		p.headed = true
		err := p.row(eventHeader...)
		if err != nil {
			return err
		}
	}
	p.begun = true
	for i := range list {
		if err := p.event(&list[i]); err != nil {
			return err
		}
	}
	return nil
}

// wideEvents is how many columns a terminal has at least that shows an event in one row of a table.
const wideEvents = 120

// eventText is where the words on an event begin on a narrow terminal.
const eventText = 39

func (p *eventPrinter) row(cells ...string) error {
	width := p.app.width()
	if width == 0 || width >= wideEvents {
		_, err := fmt.Fprintf(p.app.out, "%-23v  %-12v  %-12v  %-7v  %-9v  %-9v  %-4v  %v\n",
			cells[0], cells[1], cells[2], cells[3], cells[4], cells[5], cells[6], cells[7])
		return err
	}
	return p.narrow(cells, max(width-eventText, 20))
}

// narrow prints an event in several lines: the words on it, and then what is known of its blocks.
func (p *eventPrinter) narrow(cells []string, room int) error {
	lines := wrapped(cells[7], room)
	if cells[0] != eventHeader[0] {
		facts := ""
		for i, format := range []string{"block %s", "count %s", "%s", "took %s", "%s"} {
			if cell := cells[2+i]; cell != "-" {
				facts += fmt.Sprintf(", "+format, cell)
			}
		}
		if facts != "" {
			lines = append(lines, wrapped(facts[2:], room)...)
		}
	}
	text := fmt.Sprintf("%-23s  %-12s  ", cells[0], cells[1])
	_, err := fmt.Fprintln(p.app.out, text+strings.Join(lines, "\n"+strings.Repeat(" ",
		eventText)))
	return err
}

func (p *eventPrinter) event(e *metadata.Event) error {
	if p.app.json {
		b, err := json.Marshal(e)
		if err == nil {
			_, err = jsonWriter{p.app.out}.Write(append(b, '\n'))
		}
		return err
	}
	block, count, errno, took, temp := "-", "-", "-", "-", "-"
	if e.HasBlock {
		block = strconv.FormatUint(e.Block, 10)
	}
	if e.Count > 0 {
		count = strconv.FormatUint(uint64(e.Count), 10)
	}
	if e.Errno != 0 {
		errno = cmp.Or(unix.ErrnoName(syscall.Errno(e.Errno)), strconv.Itoa(int(e.Errno)))
	}
	if e.HasLatency {
		took = readable.Latency(time.Duration(e.Latency) * time.Microsecond)
	}
	if e.HasTemperature {
		temp = strconv.Itoa(int(e.Temperature)) + "C"
	}
	return p.row(e.Time().Local().Format("2006-01-02 15:04:05.000"), e.Kind.String(), block, count,
		errno, took, temp, readable.Text(e.Text()))
}
