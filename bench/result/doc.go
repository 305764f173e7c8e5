// Package result keeps what a run has measured: as JSON, with every single figure, and
// as a table in Markdown with medians, their spread, and ratios against targets.
//
// Ratios are of medians over rounds. Beside them stand the lowest and the highest ratio of any one
// round, in which the two devices were measured one right after the other. Slow changes of the
// machine affect both.
package result
