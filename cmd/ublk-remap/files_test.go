package main

import (
	"slices"
	"testing"

	"ublkremap/internal/control"
	"ublkremap/internal/files"
)

func TestDamageText(t *testing.T) {
	t.Parallel()
	file := func(state, path string, inode uint64, what string) files.Row {
		return files.Row{Count: 1, State: state, Fact: files.Fact{Owner: files.OwnerFile,
			Path: path, Inode: inode, Filesystem: "fs", What: what}}
	}
	plain := func(owner files.Owner, count uint64) files.Row {
		return files.Row{Count: count, State: "lost", Fact: files.Fact{Owner: owner}}
	}
	at := func(r files.Row, block uint64) files.Row { r.Block = block; return r }
	for want, rows := range map[string][]files.Row{
		"0 files affected; 4 blocks of metadata; of 12 blocks the owner is not known": {
			at(plain(files.OwnerUnknown, 8), 100), at(plain(files.OwnerUnknown, 8), 100),
			at(plain(files.OwnerMetadata, 4), 102), at(plain(files.OwnerUnknown, 2), 103),
			at(plain(files.OwnerUnknown, 4), 106), at(plain(files.OwnerUnknown, 2), 200)},
		"0 files affected": {file("mapped", "/a", 1, ""), plain(files.OwnerFree, 5),
			file("pending", "/b", 2, files.Unwritten)},
		"1 file is damaged: /a": {file("pending", "/a", 1, ""), file("lost", "/a", 1, "")},
		"2 files are damaged: /a, inode 7 of fs; 1,000 blocks of metadata; of 3 blocks the owner " +
			"is not known": {file("pending", "/a", 1, ""), file("pending", "", 7, ""),
			plain(files.OwnerMetadata, 1000), plain(files.OwnerUnknown, 3)},
		"6 files are damaged: /1, /2, /3, /4, /5, …": {file("lost", "/1", 1, ""),
			file("lost", "/2", 2, ""), file("lost", "/3", 3, ""), file("lost", "/4", 4, ""),
			file("lost", "/5", 5, ""), file("lost", "/6", 6, "")},
	} {
		if got := damageText(damageOf(rows)); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestJoinRanges(t *testing.T) {
	t.Parallel()
	got := joinRanges([]control.Range{{Block: 9, Count: 1}, {Block: 1, Count: 2},
		{Block: 2, Count: 5}, {Block: 7, Count: 1}, {Block: 20, Count: 3}})
	want := []control.Range{{Block: 1, Count: 7}, {Block: 9, Count: 1}, {Block: 20, Count: 3}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	in := overlapping(want, 5, 16)
	if want := []control.Range{{Block: 5, Count: 3}, {Block: 9, Count: 1},
		{Block: 20, Count: 1}}; !slices.Equal(in, want) {
		t.Errorf("got %v, want %v", in, want)
	}
}

func TestLacking(t *testing.T) {
	t.Parallel()
	got := lacking([]control.Range{{Block: 10, Count: 10}, {Block: 30, Count: 5}},
		[]control.Range{{Block: 5, Count: 6}, {Block: 14, Count: 2}, {Block: 30, Count: 5}})
	want := []control.Range{{Block: 11, Count: 3}, {Block: 16, Count: 4}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
