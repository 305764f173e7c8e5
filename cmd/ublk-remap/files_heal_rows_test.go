package main

import (
	"reflect"
	"testing"

	"ublkremap/internal/control"
	"ublkremap/internal/files"
)

func spareAt(n uint64) *uint64 { return &n }

// TestHealRows: what is free of the rows of the table is asked for in parts that no unit is in two
// of.
func TestHealRows(t *testing.T) {
	rows := []control.Remap{
		{Block: 10, Count: 5, State: "pending", Time: "t1"},
		{Block: 20, Count: 20, State: "pending", Spare: spareAt(100), Time: "t2"},
		{Block: 60, Count: 1, State: "lost", Time: "t3"},
		{Block: 70, Count: 4, State: "lost", Time: "t4"},
	}
	free := []files.Run{{Block: 0, Count: 12}, {Block: 13, Count: 1}, {Block: 22, Count: 12},
		{Block: 39, Count: 30}}
	got := windows(freeRows(rows, free), 32)
	want := [][]control.Remap{{
		{Block: 10, Count: 2, State: "pending", Time: "t1"},
		{Block: 13, Count: 1, State: "pending", Time: "t1"},
		{Block: 22, Count: 10, State: "pending", Spare: spareAt(102), Time: "t2"},
	}, {
		{Block: 32, Count: 2, State: "pending", Spare: spareAt(112), Time: "t2"},
		{Block: 39, Count: 1, State: "pending", Spare: spareAt(119), Time: "t2"},
		{Block: 60, Count: 1, State: "lost", Time: "t3"},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}
