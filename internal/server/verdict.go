package server

import (
	"fmt"
	"strings"

	"ublkremap/internal/control"
	"ublkremap/internal/shell"
	"ublkremap/metadata"
)

// judge sets a status's state, the reasons for it and what to do next. The rest of the status is
// filled in already. superblocks is how many superblocks of the backing can be written.
func judge(st *control.Status, live bool, superblocks int) {
	switch {
	case !live:
		st.State = control.StateRecovering
		st.Reason = "a server is recovering the device; I/O waits until it has"
		st.Action = "wait a minute; if it stays so, see the end of " + control.LogPath(st.Name)
		return
	case st.Breaker.State == "open":
		st.State, st.Reason = control.StateTripped, st.Breaker.Reason
		st.Action = "when the cause is gone: " + shell.Command("resume", st.Name)
		return
	}
	reasons, actions := shortages(st, superblocks)
	if len(reasons) == 0 {
		st.State = control.StateLive
		return
	}
	st.State, st.Reason, st.Action = control.StateDegraded, strings.Join(reasons, "; "),
		strings.Join(actions, "; ")
}

// shortages lists what a working device lacks, the worst first, and what to do about it.
func shortages(st *control.Status, superblocks int) (reasons, actions []string) {
	if st.Spare.Free == 0 {
		reasons = append(reasons, "no spare unit is free: a write to one more bad block fails")
		actions = append(actions, "copy the data to another disk while this one reads")
	}
	if reason, action := tableFills(st.Table); reason != "" {
		reasons, actions = append(reasons, reason), append(actions, action)
	}
	if superblocks < 2 {
		reasons = append(reasons, "only one superblock can be written: one more bad place, and "+
			"the set may not load")
		actions = append(actions, "copy the data to another disk while this one reads")
	}
	behind := 0
	for _, m := range st.Metadata.Mirrors {
		if m.State == string(metadata.MirrorGood) {
			continue
		}
		reasons = append(reasons, fmt.Sprintf("the mirror of the metadata at %s is %s", m.Location,
			m.State))
		behind++
	}
	if behind > 0 {
		actions = append(actions, "wait: it is written again by itself, here or elsewhere; if it "+
			"stays so for hours the disk is failing where its records lie: copy the data to "+
			"another one")
	}
	if len(actions) > 1 && actions[0] == actions[1] {
		actions = actions[1:]
	}
	return reasons, actions
}

// tableFills says what follows from a table that fills, and what to do about it. Bad blocks are
// noted until a quarter of the table is left, which is kept for heals.
func tableFills(t *control.Table) (reason, action string) {
	switch {
	case t == nil || t.Max == 0:
		return "", ""
	case t.Growth == string(metadata.GrowthUnderWay):
		return fmt.Sprintf("the remap table fills, %d of %d entries: the mirrors of the metadata "+
			"are rebuilt one after the other, with more room", t.Entries, t.Max), "wait"
	case t.Entries <= t.Max/8*5:
		return "", ""
	}
	reason = fmt.Sprintf("the remap table is nearly full, %d of %d entries: a write to a bad "+
		"block that it has no room for fails, and a read that fails is not noted", t.Entries, t.Max)
	action = "copy the data to another disk while this one reads"
	switch t.Growth {
	case string(metadata.GrowthWaits):
		reason += "; it gets more room when all mirrors and superblocks are in order"
	case string(metadata.GrowthNoRoom):
		reason += "; the disk has no room for a larger one"
	}
	return reason, action
}
