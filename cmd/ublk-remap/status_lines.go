package main

import (
	"encoding/csv"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"ublkremap/internal/attention"
	"ublkremap/internal/control"
	"ublkremap/internal/readable"
)

// nameColumns is how much of a name status --brief shows.
const nameColumns = 24

// printBrief prints one line for each device.
func (a *app) printBrief(all []*control.Status) error {
	wide := 0
	for _, s := range all {
		wide = max(wide, readable.Columns(readable.Fit(readable.Text(s.Name), nameColumns)))
	}
	for _, s := range all {
		name := readable.Fit(readable.Text(s.Name), nameColumns)
		state := fmt.Sprintf("%-11s", readable.Text(string(s.State)))
		line := fmt.Sprintf("%-13s  %s%*s  ", readable.Text(s.Device), name,
			wide-readable.Columns(name), "")
		rest := "  " + readable.Text(briefText(s))
		if width := a.width(); width > 0 {
			rest = readable.Fit(rest, max(width-readable.Columns(line+state), 0))
		}
		if a.colours() {
			colour := colourOf(s.State)
			if s.State == control.StateLive && len(attention.Of(s)) > 0 {
				colour = warning
			}
			state = painted(state, colour)
		}
		if _, err := fmt.Fprintln(a.out, line+state+rest); err != nil {
			return err
		}
	}
	return nil
}

// briefText is the most important thing about a device in some words.
func briefText(s *control.Status) string {
	text := ""
	if s.Answered() {
		free := uint64(0)
		if s.Spare.Total > 0 {
			free = 100 * s.Spare.Free / s.Spare.Total
		}
		text = fmt.Sprintf("%s pending, %s lost, %d%% spare free", readable.Number(s.Pending),
			readable.Number(s.Lost), free)
	}
	all := attention.Of(s)
	more := all.Steps()
	for i := len(all) - 1; i >= 0; i-- {
		// The figures tell of the others.
		if r := all[i].Rank; text == "" || r != attention.RankLost && r != attention.RankPending &&
			r != attention.RankSpare {
			more = append([]string{all[i].Says}, more...)
		}
	}
	return strings.Join(slices.DeleteFunc(append([]string{text}, more...),
		func(s string) bool { return s == "" }), "; ")
}

// statusColumn is a column of status --csv.
type statusColumn struct {
	name string
	of   func(s *control.Status) string
}

func number(f func(s *control.Status) uint64) func(*control.Status) string {
	return func(s *control.Status) string { return strconv.FormatUint(f(s), 10) }
}

func words(f func(s *control.Status) string) func(*control.Status) string {
	return func(s *control.Status) string { return readable.Text(f(s)) }
}

func moment(f func(s *control.Status) *time.Time) func(*control.Status) string {
	return func(s *control.Status) string {
		if t := f(s); t != nil {
			return t.UTC().Format(time.RFC3339)
		}
		return ""
	}
}

// statusColumns are the columns of status --csv, behind the time. New ones come at the end only:
// scripts count on the order (docs/COMMAND.md).
var statusColumns = []statusColumn{
	{"device", words(func(s *control.Status) string { return s.Device })},
	{"id", func(s *control.Status) string { return strconv.Itoa(s.ID) }},
	{"name", words(func(s *control.Status) string { return s.Name })},
	{"uuid", words(func(s *control.Status) string { return s.UUID })},
	{"state", words(func(s *control.Status) string { return string(s.State) })},
	{"reason", words(func(s *control.Status) string { return s.Reason })},
	{"action", words(func(s *control.Status) string { return s.Action })},
	{"waiting_since", moment(func(s *control.Status) *time.Time { return s.WaitingSince })},
	{"backing", words(func(s *control.Status) string { return s.Backing })},
	{"block_size", func(s *control.Status) string { return strconv.Itoa(s.BlockSize) }},
	{"size_blocks", number(func(s *control.Status) uint64 { return s.SizeBlocks })},
	{"spare_total", number(func(s *control.Status) uint64 { return s.Spare.Total })},
	{"spare_used", number(func(s *control.Status) uint64 { return s.Spare.Used })},
	{"spare_free", number(func(s *control.Status) uint64 { return s.Spare.Free })},
	{"remaps", number(func(s *control.Status) uint64 { return s.Remaps })},
	{"pending", number(func(s *control.Status) uint64 { return s.Pending })},
	{"lost", number(func(s *control.Status) uint64 { return s.Lost })},
	{"errors_read", number(func(s *control.Status) uint64 { return s.Errors.Read })},
	{"errors_write", number(func(s *control.Status) uint64 { return s.Errors.Write })},
	{"errors_flush", number(func(s *control.Status) uint64 { return s.Errors.Flush })},
	{"errors_transport", number(func(s *control.Status) uint64 { return s.Errors.Transport })},
	{"heals_writes", number(func(s *control.Status) uint64 { return s.Heals.Writes })},
	{"heals_reads", number(func(s *control.Status) uint64 { return s.Heals.Reads })},
	{"heals_failed", number(func(s *control.Status) uint64 { return s.Heals.Failed })},
	{"io_reads", number(func(s *control.Status) uint64 { return s.IO.Reads })},
	{"io_writes", number(func(s *control.Status) uint64 { return s.IO.Writes })},
	{"io_flushes", number(func(s *control.Status) uint64 { return s.IO.Flushes })},
	{"io_discards", number(func(s *control.Status) uint64 { return s.IO.Discards })},
	{"io_read_bytes", number(func(s *control.Status) uint64 { return s.IO.ReadBytes })},
	{"io_write_bytes", number(func(s *control.Status) uint64 { return s.IO.WriteBytes })},
	{"scrub_state", words(func(s *control.Status) string { return s.Scrub.State })},
	{"scrub_position", number(func(s *control.Status) uint64 { return s.Scrub.Position })},
	{"scrub_total", number(func(s *control.Status) uint64 { return s.Scrub.Total })},
	{"scrub_rate", number(func(s *control.Status) uint64 { return s.Scrub.Rate })},
	{"scrub_last_finished", moment(func(s *control.Status) *time.Time {
		return s.Scrub.LastFinished
	})},
	{"breaker", words(func(s *control.Status) string { return s.Breaker.State })},
	{"server_pid", func(s *control.Status) string { return strconv.Itoa(s.ServerPID) }},
	{"missing", words(func(s *control.Status) string { return strings.Join(s.Missing, " ") })},
	{"alerts", words(func(s *control.Status) string {
		kinds := make([]string, len(s.Alerts))
		for i := range s.Alerts {
			kinds[i] = s.Alerts[i].Kind
		}
		return strings.Join(kinds, " ")
	})},
}

// printCSV prints a row for each device (RFC 4180), after a header if that was not printed yet.
func (a *app) printCSV(all []*control.Status, now time.Time, header bool) error {
	w := csv.NewWriter(a.out)
	w.UseCRLF = true
	if header {
		row := []string{"time"}
		for _, c := range statusColumns {
			row = append(row, c.name)
		}
		if err := w.Write(row); err != nil {
			return err
		}
	}
	for _, s := range all {
		row := []string{now.UTC().Format(time.RFC3339)}
		for _, c := range statusColumns {
			row = append(row, c.of(s))
		}
		if err := w.Write(row); err != nil {
			return err
		}
	}
	w.Flush()
	return w.Error()
}
