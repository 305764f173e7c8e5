package badblocks

import "ublkremap/internal/lists"

// Merge returns ranges in order. It joins ranges that overlap or touch.
func Merge(list []Range) []Range { return lists.Merge(list) }

// Subtract returns the parts of the ranges that are not in minus. Both must be in the form that
// Merge returns.
func Subtract(list, minus []Range) []Range { return lists.Subtract(list, minus) }
