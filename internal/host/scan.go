package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ublkremap/internal/blockdev"
	"ublkremap/internal/control"
	"ublkremap/internal/host/set"
	"ublkremap/internal/shell"
	"ublkremap/metadata"
)

// The states of a disk without a server. The JSON names are stable.
const (
	StateStopped     = "stopped"     // it can be started
	StateIncomplete  = "incomplete"  // a disk of its set is missing, or not the right one
	StateUnfinished  = "unfinished"  // a create --in-place or a release was interrupted
	StateDamaged     = "damaged"     // its metadata is damaged
	StateUnsupported = "unsupported" // a newer version has made it
	StateInUse       = "in_use"      // another program uses it
	StateCopy        = "copy"        // another disk carries the same set, and is the newer one
	StateAmbiguous   = "ambiguous"   // another disk carries the same set, and none is newer
	StateUnreadable  = "unreadable"  // it does not answer, or only with errors
)

// loadLimit is how long reading the metadata of a set may take.
const loadLimit = 30 * time.Second

// Scanned is a disk that carries a set, a spare device whose backing is missing, or a disk that
// cannot be read.
type Scanned struct {
	Backing string `json:"backing"` // empty: only the rest of its set is here
	Name    string `json:"name"`
	UUID    string `json:"uuid"`
	State   string `json:"state"`  // a control.State, or one of the above
	Reason  string `json:"reason"` // why it is not live or stopped
	Action  string `json:"action"` // what to do
	Device  string `json:"device"` // /dev/ublkbN, empty if there is none
	// SpareDevices are the paths of the spare devices that are here.
	SpareDevices []string `json:"spare_devices"`
	Epoch        uint64   `json:"epoch"` // how often it was started
	// LastStarted is nil if the set was never started.
	LastStarted *time.Time `json:"last_started"`
}

// Scan looks which disks here carry sets, and what each set needs to run. more are paths to examine
// in addition to the block devices. It writes nothing, and opens nothing exclusively.
func (h *Host) Scan(ctx context.Context, more []string) ([]Scanned, error) {
	served, err := h.Status(ctx)
	if err != nil && served == nil && ctx.Err() != nil {
		return nil, err
	}
	statusErr := err
	for _, st := range served {
		if st.Backing != "" {
			more = append(more, st.Backing)
		}
	}
	probed, err := set.ProbeAll(ctx, more)
	if err != nil {
		return nil, err
	}
	s := scan{served: served, told: map[*control.Status]bool{}}
	for _, p := range probed {
		switch {
		case p.Err != nil:
			s.add(unread(p))
		case p.Superblock.DeviceIndex == 0:
			s.backings = append(s.backings, p)
		default:
			s.spares = append(s.spares, p)
		}
	}
	for _, p := range s.backings {
		s.add(s.backing(ctx, p))
	}
	s.lonelySpares()
	s.lonelyDevices()
	slices.SortStableFunc(s.all, func(a, b Scanned) int {
		return strings.Compare(a.Backing, b.Backing)
	})
	return s.all, errors.Join(statusErr, ctx.Err())
}

// scan is the state of one Scan.
type scan struct {
	served           []*control.Status
	told             map[*control.Status]bool // those that a row shows already
	backings, spares []set.Probed
	all              []Scanned
}

func (s *scan) add(row Scanned) {
	if row.SpareDevices == nil {
		row.SpareDevices = []string{}
	}
	s.all = append(s.all, row)
}

// rowOf is the row that the superblock of a disk gives.
func rowOf(p set.Probed) Scanned {
	row := Scanned{Backing: p.Path}
	if sb := p.Superblock; sb != nil {
		row.Name, row.UUID, row.Epoch = sb.Name, sb.UUID.String(), sb.Epoch
		if sb.Started != 0 {
			t := time.Unix(int64(sb.Started), 0).UTC()
			row.LastStarted = &t
		}
	}
	return row
}

// unread is the row of a disk whose superblock could not be used.
func unread(p set.Probed) Scanned {
	row := rowOf(p)
	row.Reason = p.Err.Error()
	switch {
	case errors.Is(p.Err, metadata.ErrUnsupported):
		row.State, row.Action = StateUnsupported, "use a newer ublk-remap"
	case errors.Is(p.Err, metadata.ErrDamaged):
		row.State, row.Action = StateDamaged, damagedAction(p.Path)
	default:
		row.State = StateUnreadable
		row.Action = "whether it carries a set is not known; look at the disk and its cable"
	}
	return row
}

func damagedAction(path string) string {
	return "leave the disk as it is, and see: " + shell.Command("metadata", "check", path)
}

// backing is the row of a disk that carries a set.
func (s *scan) backing(ctx context.Context, p set.Probed) Scanned {
	row := rowOf(p)
	for _, spare := range s.spares {
		if spare.Superblock.UUID == p.Superblock.UUID {
			row.SpareDevices = append(row.SpareDevices, spare.Path)
		}
	}
	for _, st := range s.served {
		if st.UUID != row.UUID {
			continue
		}
		if st.Backing == p.Path || blockdev.SameDisk(st.Backing, p.Path) {
			s.told[st] = true
			row.State, row.Reason, row.Action = string(st.State), st.Reason, st.Action
			row.Device = st.Device
			return row
		}
		row.State = StateCopy
		row.Reason = fmt.Sprintf("it is a copy of %s, or another way to it, which is "+
			"%s", st.Backing,
			st.Device)
		row.Action = "detach it, or leave it alone"
		return row
	}
	if s.copyOf(p, &row) {
		return row
	}
	if users := blockdev.UsersOf(p.Path); len(users) > 0 {
		row.State, row.Reason = StateInUse, "it is in use: "+blockdev.Says(users)
		row.Action = "end that first"
		return row
	}
	s.stopped(ctx, p, &row)
	return row
}

// copyOf reports whether another disk here carries the same set, and this is not the newest.
func (s *scan) copyOf(p set.Probed, row *Scanned) bool {
	for _, o := range s.backings {
		if o.Path == p.Path || o.Superblock.UUID != p.Superblock.UUID {
			continue
		}
		switch {
		case o.Superblock.Epoch > p.Superblock.Epoch:
			row.State = StateCopy
			row.Reason = fmt.Sprintf("it is an older copy: it is of epoch %d, and %s of epoch %d",
				p.Superblock.Epoch, o.Path, o.Superblock.Epoch)
			row.Action = fmt.Sprintf("start %s, or detach that if the older data is what is wanted",
				o.Path)
			return true
		case o.Superblock.Epoch == p.Superblock.Epoch:
			row.State = StateAmbiguous
			row.Reason = fmt.Sprintf("%s carries the same set, of the same epoch: one is a copy "+
				"of "+
				"the other, or another way to it", o.Path)
			row.Action = "detach the copy, or start the right one by its path: " +
				shell.Command("start", p.Path)
			return true
		}
	}
	return false
}

// stopped says what a set needs that is neither served nor in use.
func (s *scan) stopped(ctx context.Context, p set.Probed, row *Scanned) {
	if err := p.Superblock.Unfinished(); err != nil {
		row.State, row.Reason = StateUnfinished, err.Error()
		row.Action = "finish or undo what was begun"
		return
	}
	result := make(chan error, 1)
	go func() { result <- s.whole(ctx, p) }()
	var err error
	select {
	case err = <-result:
	case <-time.After(loadLimit):
		err = set.ErrSilent
	}
	var device *set.DeviceError
	switch {
	case err == nil:
		row.State, row.Action = StateStopped, "to use it: "+s.startOf(p)
	case errors.As(err, &device):
		row.State, row.Action, row.Reason = StateIncomplete, device.Do, device.What
		if device.Path != p.Path {
			row.Reason = fmt.Sprintf("%s: %v: %s", device.Path, device.Err, device.What)
		}
	case errors.Is(err, metadata.ErrPath), errors.Is(err, set.ErrSilent):
		row.State, row.Reason = StateUnreadable, err.Error()
		row.Action = "look at the disk and its cable"
	case errors.Is(err, metadata.ErrUnsupported):
		row.State, row.Reason, row.Action = StateUnsupported, err.Error(), "use a newer ublk-remap"
	default:
		row.State, row.Reason, row.Action = StateDamaged, err.Error(), damagedAction(p.Path)
	}
}

// startOf is the command that starts a set when other sets have the same name.
func (s *scan) startOf(p set.Probed) string {
	for _, o := range s.backings {
		if o.Path != p.Path && o.Superblock.Name == p.Superblock.Name {
			return shell.Command("start", p.Path)
		}
	}
	return shell.Command("start", p.Superblock.Name)
}

// whole opens a set to read, and reads its metadata.
func (s *scan) whole(ctx context.Context, p set.Probed) error {
	var paths []string
	for i, d := range p.Superblock.Devices[1:] {
		here := slices.ContainsFunc(s.spares, func(o set.Probed) bool {
			own := o.Superblock.Devices[o.Superblock.DeviceIndex].UUID == d.UUID
			if own {
				paths = append(paths, o.Path)
			}
			return own
		})
		if !here {
			return &set.DeviceError{Path: p.Path, Err: metadata.ErrNotFound,
				What: fmt.Sprintf("its spare device %d, %s (%d bytes), is on no block device here",
					i+1, d.UUID, d.Size),
				Do: "attach it; one that is a file is named: " +
					shell.Command("start", "--spare-device=FILE", p.Path)}
		}
	}
	opened, err := set.Open(ctx, p.Path, paths, blockdev.Options{ReadOnly: true, Shared: true})
	if err != nil {
		return err
	}
	defer opened.Close()
	_, err = metadata.Load(opened.Metadata())
	return err
}

// lonelySpares adds spare devices whose backing is not here.
func (s *scan) lonelySpares() {
	rows := map[string]*Scanned{}
	var order []string
	for _, p := range s.spares {
		id := p.Superblock.UUID.String()
		if slices.ContainsFunc(s.all, func(r Scanned) bool { return r.UUID == id }) {
			continue
		}
		row := rows[id]
		if row == nil {
			fresh := rowOf(p)
			row = &fresh
			row.Backing, row.State = "", StateIncomplete
			d := p.Superblock.Devices[0]
			row.Reason = fmt.Sprintf("its disk %s (%d bytes) is on no block device here", d.UUID,
				d.Size)
			row.Action = "attach it"
			rows[id] = row
			order = append(order, id)
		}
		row.SpareDevices = append(row.SpareDevices, p.Path)
	}
	for _, id := range order {
		s.deviceOf(rows[id])
		s.add(*rows[id])
	}
}

// deviceOf adds what is known about the device of a set whose disk is gone.
func (s *scan) deviceOf(row *Scanned) {
	for _, st := range s.served {
		if st.UUID == row.UUID {
			s.told[st] = true
			row.State, row.Reason, row.Action = string(st.State), st.Reason, st.Action
			row.Device, row.Backing = st.Device, st.Backing
		}
	}
}

// lonelyDevices adds devices for which no disk was found. I/O may wait for them.
func (s *scan) lonelyDevices() {
	for _, st := range s.served {
		if s.told[st] {
			continue
		}
		s.add(Scanned{Backing: st.Backing, Name: st.Name, UUID: st.UUID, State: string(st.State),
			Reason: st.Reason, Action: st.Action, Device: st.Device})
	}
}
